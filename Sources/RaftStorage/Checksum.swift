import CISAL

/// CRC32C (Castagnoli), fed piece by piece. The standard check holds: "123456789" gives 0xE3069283.
struct Checksum {
    // ISA-L neither inverts the seed nor the result; the standard does both.
    private var state: UInt32 = ~0

    /// Of everything fed so far.
    var value: UInt32 { ~state }

    mutating func update(_ bytes: UnsafeRawBufferPointer) {
        guard var next = bytes.baseAddress?.assumingMemoryBound(to: UInt8.self) else { return }
        var left = bytes.count
        while left > 0 {
            // the C function counts in int
            let count = min(left, 1 << 30)
            state = crc32_iscsi(UnsafeMutablePointer(mutating: next), Int32(count), state)
            next += count
            left -= count
        }
    }

    /// Of `bytes` alone.
    static func of(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
        var checksum = Checksum()
        checksum.update(bytes)
        return checksum.value
    }
}
