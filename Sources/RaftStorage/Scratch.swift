/// A growing run of bytes in one piece of memory that is kept from use to use. Integers are little endian.
final class Scratch {
    private(set) var count = 0
    private var memory: UnsafeMutableRawBufferPointer

    init(capacity: Int = 4096) {
        memory = .allocate(byteCount: capacity, alignment: 16)
    }

    /// With `number` bytes that are zero.
    convenience init(zeros number: Int) {
        self.init(capacity: number)
        append(zeros: number)
    }

    deinit { memory.deallocate() }

    /// What has been appended; valid until the next append.
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[..<count]) }

    /// A part of ``bytes``.
    subscript(range: Range<Int>) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[range]) }

    func removeAll() { count = 0 }

    func append<T: FixedWidthInteger>(_ value: T) {
        reserve(MemoryLayout<T>.size)
        memory.storeBytes(of: value.littleEndian, toByteOffset: count, as: T.self)
        count += MemoryLayout<T>.size
    }

    /// Appends `more` bytes and hands them out; the caller writes each of them, before the next append.
    func extend(by more: Int) -> UnsafeMutableRawBufferPointer {
        reserve(more)
        defer { count += more }
        return UnsafeMutableRawBufferPointer(rebasing: memory[count..<count + more])
    }

    func append(_ source: UnsafeRawBufferPointer) {
        reserve(source.count)
        UnsafeMutableRawBufferPointer(rebasing: memory[count...]).copyMemory(from: source)
        count += source.count
    }

    func append(text: String) {
        var text = text
        text.withUTF8 { append(UnsafeRawBufferPointer($0)) }
    }

    func append(zeros number: Int) {
        extend(by: number).initializeMemory(as: UInt8.self, repeating: 0)
    }

    /// Overwrites bytes that have been appended.
    func store<T: FixedWidthInteger>(_ value: T, at offset: Int) {
        precondition(offset >= 0 && offset + MemoryLayout<T>.size <= count)
        memory.storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
    }

    private func reserve(_ more: Int) {
        guard count + more > memory.count else { return }
        let capacity = max(2 * memory.count, count + more)
        let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 16)
        larger.copyMemory(from: bytes)
        memory.deallocate()
        memory = larger
    }
}

extension UnsafeMutableRawBufferPointer {
    /// Writes the little-endian form of `value` at `offset`; it must lie inside.
    func store<T: FixedWidthInteger>(_ value: T, at offset: Int) {
        precondition(offset >= 0 && offset + MemoryLayout<T>.size <= count)
        storeBytes(of: value.littleEndian, toByteOffset: offset, as: T.self)
    }
}

extension UnsafeRawBufferPointer {
    /// The little-endian integer at `offset`, which must lie inside.
    func little<T: FixedWidthInteger>(_ type: T.Type = T.self, at offset: Int) -> T {
        precondition(offset >= 0 && offset + MemoryLayout<T>.size <= count)
        return T(littleEndian: loadUnaligned(fromByteOffset: offset, as: T.self))
    }

    /// The bytes `range`, which must lie inside.
    func part(_ range: Range<Int>) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: self[range]) }
}
