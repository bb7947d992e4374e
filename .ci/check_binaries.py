"""Checks that the functions in a build folder run on Lambda's provided.al2023 for arm64, and prints their digests.

    check_binaries.py BUILD            BUILD holds FUNCTION/bootstrap, as `sam build` leaves them
"""

import hashlib
import pathlib
import re
import struct
import sys

AARCH64 = 183
# Of Amazon Linux 2023, https://docs.aws.amazon.com/linux/al2023/ug/compare-with-al2.html
GLIBC_MAX = (2, 34)


def findings_of(binary):
    if binary[:4] != b"\x7fELF":
        return ["it is no ELF file"]
    found = []
    (machine,) = struct.unpack_from("<H", binary, 18)
    if machine != AARCH64:
        found.append(f"its ELF machine is {machine}, not AArch64")
    versions = {tuple(map(int, version.split(b"."))) for version in re.findall(rb"GLIBC_(\d+(?:\.\d+)+)\0", binary)}
    if not versions:
        found.append("it names no version of glibc")
    elif max(versions) > GLIBC_MAX:
        found.append(f"it needs glibc {'.'.join(map(str, max(versions)))}")
    if re.search(rb"/(?:root|home|work|Users|tmp)/", binary):
        found.append("it holds a path of the machine that built it")
    return found


def main():
    binaries = sorted(pathlib.Path(sys.argv[1]).glob("*/bootstrap"))
    if not binaries:
        sys.exit(f"{sys.argv[1]} holds no function")
    failed = False
    for path in binaries:
        binary = path.read_bytes()
        print(f"{hashlib.sha256(binary).hexdigest()}  {len(binary):>9}  {path.parent.name}")
        for finding in findings_of(binary):
            failed = True
            print(f"{path.parent.name}: {finding}", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
