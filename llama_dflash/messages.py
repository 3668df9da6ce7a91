"""Chat messages as agents send them: contents that are null, absent or a list of parts.

Chat templates and llama-cpp-python's formatters read `message["content"]` and expect a text there; some stop at anything
else, others leave it out of the prompt without a word.
"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

Message = Dict[str, Any]

ROLES = ("system", "user", "assistant", "tool", "function")
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}  # types of parts: their key
MEDIA = ("image_url", "input_audio", "audio_url", "video_url")


class MessageError(ValueError):
    """A message that the model can't be shown. `place` is like "messages.3.content"."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place


def plain_messages(messages: Sequence[Message], keep_media: bool = False) -> List[Message]:
    """Messages whose contents are texts. The messages that are given stay as they are.

    Args:
        messages: As for create_chat_completion. A content may be a text, None, absent, or a list of parts.
        keep_media: Leave the lists of users as they are if they have anything else than text, for a handler of images.

    Raises:
        MessageError: If a message is no message, or has a part that is no text.
    """
    if not isinstance(messages, (list, tuple)):
        raise MessageError("messages", f"found a {type(messages).__name__}, expected a list of messages")
    return [_plain(message, f"messages.{i}", keep_media) for i, message in enumerate(messages)]


def _plain(message: Any, place: str, keep_media: bool) -> Message:
    if not isinstance(message, dict):
        raise MessageError(place, f"found a {type(message).__name__}, expected an object with a role and a content")
    if not isinstance(message.get("role"), str):
        raise MessageError(place, f"its role is {message.get('role')!r}, expected one of {', '.join(map(repr, ROLES))}")
    plain = {name: value for name, value in message.items() if value is not None}
    content = plain.get("content", "")
    if isinstance(content, (list, tuple)):
        if keep_media and plain["role"] == "user" and any(is_media(part) for part in content):
            return plain
        content = "\n".join(_text(part, f"{place}.content.{i}", keep_media) for i, part in enumerate(content))
    elif not isinstance(content, str):
        raise MessageError(f"{place}.content", f"found a {type(content).__name__}, expected a text or a list of parts")
    return {**plain, "content": content}


def is_media(part: Any) -> bool:
    """True if a part of a content is an image or the like."""
    return isinstance(part, dict) and part.get("type") in MEDIA


def _text(part: Any, place: str, keep_media: bool) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if is_media(part):
        whose = "messages of users alone may have one" if keep_media else "this model reads text only"
        raise MessageError(place, f"found a part of type {kind!r}: {whose}")
    text = part.get(_TEXTS[kind]) if isinstance(kind, str) and kind in _TEXTS else None
    if not isinstance(text, str):
        raise MessageError(place, 'found a part that is no text, expected {"type": "text", "text": ...}')
    return text
