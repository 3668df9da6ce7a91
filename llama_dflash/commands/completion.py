"""`llama-dflash completion`: what bash, zsh or fish needs to complete the commands, made from their parsers."""

from __future__ import annotations

import argparse
from typing import Any, Dict, List

from ..cli import add_command, parser_of

SHELLS = ("bash", "zsh", "fish")
EPILOG = """\
examples:
  llama-dflash completion bash > ~/.local/share/bash-completion/completions/llama-dflash
  llama-dflash completion zsh > "${fpath[1]}/_llama-dflash"
  llama-dflash completion fish > ~/.config/fish/completions/llama-dflash.fish

Files, and after `run`, `serve`, `tune`, `info` and `pairs` the short names that `pull` gave, are completed too."""
WITH_NAMES = ("run", "serve", "tune", "info", "pairs", "pull")

_BASH = """\
# bash completion of llama-dflash
_llama_dflash() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}" options="" names=""
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "{commands} --help --version" -- "$word"))
        return
    fi
    case "$command" in
{cases}
    esac
    case "$command" in
        {with_names}) [[ $word == -* ]] || names="$(llama-dflash pull --names 2>/dev/null)" ;;
    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$word"))
    else
        COMPREPLY=($(compgen -W "$names" -- "$word") $(compgen -f -- "$word"))
    fi
}}
complete -o filenames -F _llama_dflash llama-dflash
"""
_ZSH = """\
#compdef llama-dflash
# zsh completion of llama-dflash
_llama-dflash() {{
    local -a commands options names
    commands=(
{commands}
    )
    if (( CURRENT == 2 )); then
        _describe -t commands command commands
        return
    fi
    case "$words[2]" in
{cases}
    esac
    case "$words[2]" in
        {with_names}) [[ $words[CURRENT] == -* ]] || names=(${{(f)"$(llama-dflash pull --names 2>/dev/null)"}}) ;;
    esac
    if [[ $words[CURRENT] == -* ]]; then
        compadd -- $options
    else
        compadd -- $names
        _files
    fi
}}
if [[ $funcstack[1] == _llama-dflash ]]; then
    _llama-dflash "$@"
else
    compdef _llama-dflash llama-dflash
fi
"""


def add(commands: Any, name: str, help: str) -> None:
    parser = add_command(commands, name, help, _run, EPILOG)
    parser.add_argument("shell", choices=SHELLS)


def _run(args: argparse.Namespace) -> int:
    commands = _commands()
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](commands), end="")
    return 0


def _commands() -> Dict[str, Any]:
    """Every command's help and options."""
    (subparsers,) = [action for action in parser_of()._actions if isinstance(action, argparse._SubParsersAction)]
    helps = {action.dest: action.help or "" for action in subparsers._choices_actions}
    found = {}
    for name, parser in subparsers.choices.items():
        options = [option for action in parser._actions for option in action.option_strings if action.help != argparse.SUPPRESS]
        found[name] = {"help": helps[name], "options": options}
    return found


def _bash(commands: Dict[str, Any]) -> str:
    cases = "\n".join(f'        {name}) options="{" ".join(entry["options"])}" ;;' for name, entry in commands.items())
    return _BASH.format(commands=" ".join(commands), cases=cases, with_names="|".join(WITH_NAMES))


def _zsh(commands: Dict[str, Any]) -> str:
    described = "\n".join(f"        {_in_quotes(name + ':' + entry['help'])}" for name, entry in commands.items())
    cases = "\n".join(f"        {name}) options=({' '.join(entry['options'])}) ;;" for name, entry in commands.items())
    return _ZSH.format(commands=described, cases=cases, with_names="|".join(WITH_NAMES))


def _fish(commands: Dict[str, Any]) -> str:
    lines: List[str] = ["# fish completion of llama-dflash", "complete -c llama-dflash -n __fish_use_subcommand -f"]
    for name, entry in commands.items():
        lines.append(f"complete -c llama-dflash -n __fish_use_subcommand -f -a {name} -d {_in_quotes(entry['help'])}")
        for option in entry["options"]:
            kind = f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
            lines.append(f"complete -c llama-dflash -n '__fish_seen_subcommand_from {name}' {kind}")
    seen = " ".join(WITH_NAMES)
    lines.append(f"complete -c llama-dflash -n '__fish_seen_subcommand_from {seen}' -a '(llama-dflash pull --names 2>/dev/null)'")
    return "\n".join(lines) + "\n"


def _in_quotes(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
