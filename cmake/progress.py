"""Runs a command that builds (pip install -v .) and shows how far it is.

usage: progress.py LOGFILE COMMAND...

On a terminal that is one line that moves, elsewhere a line at every tenth of
the way. All of the output goes to LOGFILE; if the command fails, its errors
are shown.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

STEP = re.compile(r"\[\s*(\d+)/(\d+)\] (.*)|\[\s*(\d+)%\] (.*)")  # ninja, make
MILESTONE = re.compile(r"\s*(?:-- (llama\.cpp source: .*|AMX: .*)|\*\*\* (Configuring|Making wheel).*)|Successfully (installed) .*(llama-dflash\S+)")
ERROR = re.compile(r"error|FAILED|fix:|Step '", re.IGNORECASE)


def main(log_path: str, *command: str) -> int:
    log = Path(log_path)
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal, started, shown, lines = sys.stdout.isatty(), time.monotonic(), -1, []

    def say(text: str, moving: bool = False) -> None:
        clock = "%d:%02d" % divmod(int(time.monotonic() - started), 60)
        start, end = ("\r\033[K", "" if moving else "\n") if terminal else ("", "\n")
        print(f"{start}{clock:>6}  {text}"[: 110 if moving else None], end=end, flush=True)

    say("installing (the first build takes some minutes)")
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        for line in process.stdout:
            out.write(line)
            lines.append(line.rstrip())
            step, milestone = STEP.search(line), MILESTONE.match(line)
            if step and step.group(1) != "0":
                done, total, what, percent, what_make = step.groups()
                tenth = int(percent) // 10 if percent else int(done) * 10 // int(total)
                text = f"[{done}/{total}]" if done else f"[{percent}%]"
                if terminal:
                    say(f"{text} {(what or what_make).rsplit('/', 1)[-1]}", moving=True)
                elif tenth != shown:
                    shown = tenth
                    say(f"compiling {text}")
            elif milestone:
                say(" ".join(x for x in milestone.groups() if x))
        code = process.wait()
    if code != 0:
        say(f"failed: {' '.join(command)}")
        errors = [i for i, line in enumerate(lines) if ERROR.search(line)]
        wanted = {j for i in errors[:12] for j in range(i, i + 10)} | set(range(max(0, len(lines) - 15), len(lines)))
        print("\n".join(lines[i] for i in sorted(wanted) if i < len(lines)))
        print(f"(everything: {log})")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
