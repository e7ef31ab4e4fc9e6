"""Compare the installed packages with the known holes, by pip-audit; where no service of vulnerabilities answers, say so and pass.

    python -m campaign.audit
"""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence

_UNREACHABLE = ("ServiceError", "ConnectionError", "Max retries", "Failed to", "timed out", "Temporary failure", "ProxyError", "403", "502", "503")
COMMAND = (sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "--progress-spinner", "off", "--timeout", "15")


def main(command: Sequence[str] = COMMAND) -> int:
    if importlib.util.find_spec("pip_audit") is None and command == COMMAND:
        print("audit: skipped: pip-audit is not installed; python -m pip install pip-audit")
        return 0
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    except subprocess.TimeoutExpired:
        print("audit: skipped: the service of vulnerabilities does not answer within 300 s")
        return 0
    said = (done.stdout + done.stderr).strip()
    if done.returncode and "Vulnerability" not in said and "vulnerabilit" not in done.stdout and any(word in said for word in _UNREACHABLE):
        print(f"audit: skipped: the service of vulnerabilities cannot be reached ({said.splitlines()[-1][:160]})")
        return 0
    print(said)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
