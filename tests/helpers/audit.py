"""`make audit`: the pinned packages and the known vulnerabilities. ``python -m tests.helpers.audit constraints.txt``.

pip-audit ends with 0 where its service answers "not found" for every package: what was not checked is counted here.
"""

from __future__ import annotations

import json
import subprocess
import sys

PASSED, VULNERABLE, NOT_CHECKED = 0, 1, 3


def judge(output: str) -> tuple[int, list[str]]:
    """Exit code and lines for people, from what ``pip-audit --format json`` writes; "" if it wrote nothing."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return NOT_CHECKED, ["not checked: pip-audit cannot reach its advisory service (pypi.org)"]
    skipped = [one["name"] for one in packages if "vulns" not in one]
    lines = [
        f"{one['name']} {one['version']}: {vuln['id']}, fixed in {', '.join(vuln['fix_versions']) or 'none'}"
        for one in packages
        for vuln in one.get("vulns", ())
    ]
    code = VULNERABLE if lines else PASSED
    if len(skipped) == len(packages):
        return NOT_CHECKED, [
            f"not checked: the advisory service (pypi.org) knows none of the {len(packages)} packages"
        ]
    if skipped:
        lines.append(f"not checked, unknown to the advisory service: {', '.join(skipped)}")
        code = code or NOT_CHECKED
    return code, [*lines, f"{len(packages) - len(skipped)} packages checked"]


def main() -> int:
    """Audit a file of pins."""
    options = [
        "--no-deps",
        "--disable-pip",
        "--progress-spinner",
        "off",
        "--timeout",
        "10",
        "--format",
        "json",
    ]
    command = [sys.executable, "-m", "pip_audit", "-r", sys.argv[1], *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    code, lines = judge(done.stdout)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
