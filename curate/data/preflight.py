"""A chat template is a program from the Hub: it is run once in a child process with limits before it is run here.

The sandbox of jinja2 stops a template from reaching Python, but not from running for ever or from filling the memory.
"""

import json
import os
import subprocess
import sys
from typing import Any

from curate.errors import ModelError, SafetyError

SECONDS = 10
MEMORY = 512 * 2**20  # beyond what the interpreter holds when the template starts

_TURNS = [{"role": role, "content": f"A turn of the {role}."} for role in ("user", "assistant", "user", "assistant")]


def check_template(tokenizer: Any, *, seconds: int = SECONDS) -> None:
    """ModelError if the tokenizer's chat template is malformed, SafetyError if it breaks out of the sandbox or its limits.

    Takes about two seconds, so it is called once per template and not by every worker.
    """
    if not tokenizer.chat_template:
        return
    template = f"the chat template of {getattr(tokenizer, 'name_or_path', '') or 'the tokenizer'}"
    variables = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    request = json.dumps({"template": tokenizer.get_chat_template(), "variables": variables, "seconds": seconds})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__], input=request, capture_output=True, text=True, timeout=60 + 2 * seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SafetyError(f"{template} does not end within {60 + 2 * seconds} s; use another model, or correct its template") from error
    limits = {"kind": "limit", "text": f"it takes more than {seconds} s or {MEMORY // 2**20} MiB for four short turns"}
    verdict = json.loads(done.stdout) if done.returncode == 0 else limits
    if verdict["kind"] == "template":
        raise ModelError(f"{template} cannot be used ({verdict['text']}); correct chat_template in the tokenizer's configuration")
    if verdict["kind"] != "fine":
        raise SafetyError(f"{template} is refused: {verdict['text']}; use another model, or correct its template")


def _render(template: str, variables: dict[str, Any], seconds: int) -> dict[str, str]:
    from jinja2 import TemplateError, TemplateSyntaxError
    from jinja2.exceptions import SecurityError
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit(seconds)
    try:
        for turns, prompt in ((_TURNS, False), (_TURNS[:1], True)):
            render_jinja_template(conversations=[turns], chat_template=template, add_generation_prompt=prompt, **variables)
    except SecurityError as error:
        return {"kind": "escape", "text": ascii(str(error))}
    except TemplateSyntaxError as error:
        return {"kind": "template", "text": f"line {error.lineno}: {ascii(str(error.message))}"}
    except (MemoryError, RecursionError, OverflowError) as error:
        return {"kind": "limit", "text": f"four short turns are too much for its memory or depth ({type(error).__name__})"}
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        return {"kind": "template", "text": ascii(str(error))}
    return {"kind": "fine", "text": ""}


def _limit(seconds: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: the deadline of the parent remains
        return
    spent = sum(os.times()[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + seconds, int(spent) + seconds))
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(_render(asked["template"], asked["variables"], asked["seconds"])))
