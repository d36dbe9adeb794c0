"""The random numbers that explaind draws (src/random.rs)."""

import numpy as np


class Generator:
    """ChaCha with 8 rounds; the key is the seed expanded by PCG32, the nonce the number of the sample."""

    def __init__(self, seed, sample):
        key = []
        for _ in range(8):
            seed = (seed * 0x5851F42D4C957F2D + 0xA17654E46FBE17F3) % 2**64
            word, turn = (((seed >> 18) ^ seed) >> 27) % 2**32, seed >> 59
            key.append((word >> turn | word << (-turn % 32)) % 2**32)
        self.key, self.sample = key, sample

    def words(self, count):
        blocks = -(-count // 16)
        constant = np.frombuffer(b"expand 32-byte k", "<u4")
        start = np.zeros((16, blocks), np.uint32)
        start[:4] = constant[:, None]
        start[4:12] = np.array(self.key, np.uint32)[:, None]
        start[12] = np.arange(blocks)
        start[14], start[15] = self.sample % 2**32, self.sample >> 32
        state = start.copy()

        def rotate(x, by):
            return x << np.uint32(by) | x >> np.uint32(32 - by)

        def quarter(a, b, c, d):
            for x, y, z, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                state[x] += state[y]
                state[z] = rotate(state[z] ^ state[x], by)

        for _ in range(4):
            for column in range(4):
                quarter(column, 4 + column, 8 + column, 12 + column)
            for diagonal in range(4):
                quarter(diagonal, 4 + (diagonal + 1) % 4, 8 + (diagonal + 2) % 4, 12 + (diagonal + 3) % 4)
        return (state + start).T.ravel()[:count]

    def uniforms(self, count):
        words = self.words(2 * count).astype(np.uint64)
        return (words[0::2] + (words[1::2] << np.uint64(32)) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normals(self, count):
        pairs = self.uniforms(2 * -(-count // 2)).reshape(-1, 2)
        radius, angle = np.sqrt(-2 * np.log(1 - pairs[:, 0])), 2 * np.pi * pairs[:, 1]
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()[:count]
