"""Recovers a P-256 public key from a signature (SEC 1 §4.1.6).

For tests only: it is not constant time and ignores edge cases.
"""

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
A = P - 3
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)


def recover(digest: bytes, signature: bytes) -> tuple[int, int]:
    """Returns one of the two points under which `signature` is valid for `digest`.

    It need not be the signer's. The signature is r and s, 32 bytes each.
    """
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    y = pow(r**3 + A * r + B, (P + 1) // 4, P)
    inverse = pow(r, -1, N)
    by_r = _multiply((r, y), s * inverse % N)
    by_g = _multiply(G, -int.from_bytes(digest, "big") * inverse % N)
    return _add(by_r, by_g)


def _multiply(point, scalar: int):
    result = None
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point, scalar = _add(point, point), scalar >> 1
    return result


def _add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    rise, run = (3 * a[0] * a[0] + A, 2 * a[1]) if a == b else (b[1] - a[1], b[0] - a[0])
    slope = rise * pow(run, -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P
