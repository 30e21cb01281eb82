"""The answers of `commands.py` as lines for people, 80 columns wide where names allow."""

from typing import Any

__all__ = ["check", "check_verbose", "dump", "load"]

_Json = dict[str, Any]


def check(data: _Json) -> list[str]:
    """Two lines a program, the reason below those that failed."""
    return _check(data, verbose=False)


def check_verbose(data: _Json) -> list[str]:
    """As `check`, with the verifier's whole log for a reason."""
    return _check(data, verbose=True)


def _check(data: _Json, *, verbose: bool) -> list[str]:
    lines = [_headline(data)]
    tried = [p for p in data["programs"] if p["loaded"] is not None]
    for program in data["programs"]:
        if program["loaded"] is None:
            lines.append(f"  skipped {program['name']} ({program['section']}): optional, name it to try it")
        elif program["loaded"]:
            maps = f", maps {' '.join(program['maps'])}" if program["maps"] else ""
            lines.append(f"  ok      {program['name']} ({program['section']})")
            lines.append(
                f"          {_short(program['type'])}, tag {program['tag']}, "
                f"{program['instructions']} insns, {program['load_ms']:.2f} ms{maps}"
            )
        else:
            lines.append(f"  FAILED  {program['name']} ({program['section']}, {_short(program['type'])})")
            lines += _reason(program["error"], verbose=verbose)
    lines += _maps(data["maps"], verbose=verbose)
    good = sum(bool(p["loaded"]) for p in tried)
    created = sum(one["error"] is None for one in data["maps"])
    lines.append(f"{good} of {len(tried)} programs loaded, {created} of {len(data['maps'])} maps created")
    return lines


def _reason(error: _Json, *, verbose: bool) -> list[str]:
    reason = error["log"].rstrip() if verbose and error.get("log") else error["message"]
    hint = error["hint"] or ""
    return [f"          {line}" for line in (*reason.splitlines(), *hint.splitlines())]


def load(data: _Json) -> list[str]:
    """What was loaded, and where it is pinned."""
    lines = [_headline(data)]
    lines += [f"  program {p['name']}: id {p['id']}, tag {p['tag']}" for p in data["programs"]]
    lines += [f"  map {m['name']}: id {m['id']}" for m in data["maps"]]
    if data["pinned"]:
        lines += ["pinned:", *(f"  {path}" for path in data["pinned"])]
    else:
        lines.append("nothing is pinned (--pin DIR), so all of it is gone again")
    return lines


def dump(data: _Json) -> list[str]:
    """The whole spec."""
    lines = [_headline(data)]
    for program in data["programs"]:
        optional = ", optional" if program["optional"] else ""
        attach = program["expected_attach_type"] or "attach type open"
        lines.append(f"program {program['name']} ({program['section']}{optional})")
        lines.append(f"    {_short(program['type'])}, {attach}, {program['instructions']} instructions")
        if program["problem"]:
            lines.append(f"    cannot be loaded: {program['problem']}")
        if len(program["functions"]) > 1:
            lines.append(f"    functions: {' '.join(program['functions'])}")
        for reference in program["references"]:
            offset = f"+{reference['offset']}" if reference["offset"] else ""
            lines.append(f"    {reference['instruction']:4}: {reference['kind']} {reference['name']}{offset}")
        lines += [f"    {r['instruction']:4}: CO-RE: {r['wants']}" for r in program["core_relocations"]]
    lines += _maps(data["maps"])
    for extern in data["externs"]:
        weak = ", weak" if extern["weak"] else ""
        lines.append(f"extern {extern['name']} ({extern['section']}{weak})")
    return lines


def _headline(data: _Json) -> str:
    programs, maps = len(data["programs"]), len(data["maps"])
    license_text = data["license"] or "none"
    return f"{data['object']}: {programs} programs, {maps} maps, license {license_text}"


def _maps(maps: list[_Json], *, verbose: bool = False) -> list[str]:
    lines = []
    for one in maps:
        lines.append(
            f"map {one['name']}: {_short(one['type'])}, key {one['key_bytes']} B, "
            f"value {one['value_bytes']} B, {one['max_entries']} entries"
            + (f", flags {one['flags']:#x}" if one["flags"] else "")
            + (", pinned by name" if one["pin_by_name"] else "")
        )
        if one["error"]:
            lines += ["  FAILED", *_reason(one["error"], verbose=verbose)]
        if one["inner"]:
            lines += [f"    {line}" for line in _maps([one["inner"]])]
        if one["slots"]:
            lines.append("    holds " + ", ".join(f"[{i}] {name}" for i, name in one["slots"].items()))
        if one["variables"]:
            names = ", ".join(f"{name} ({size} B)" for name, size in one["variables"].items())
            lines.append(f"    variables: {names}")
    return lines


def _short(name: str) -> str:
    return name.removeprefix("BPF_PROG_TYPE_").removeprefix("BPF_MAP_TYPE_").lower()
