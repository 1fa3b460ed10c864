import CRocksDB
public import RaftCore

extension RocksEngine {
    /// What each of `ranges` takes in files, compressed; what is in memtables still is missing.
    public func approximateBytes(of ranges: [(start: Bytes, end: Bytes)]) throws(StateMachineError) -> [UInt64] {
        guard !ranges.isEmpty else { return [] }
        // one buffer of all bounds: RocksDB wants pointers to all of them at once
        var places: [(offset: Int, count: Int)] = []
        var bounds: [CChar] = []
        for bound in ranges.map(\.start) + ranges.map(\.end) {
            places.append((bounds.count, bound.count))
            bound.withUnsafeBytes { bounds.append(contentsOf: $0.bindMemory(to: CChar.self)) }
        }
        // RocksDB wants a pointer even to nothing
        bounds.append(0)
        var sizes = [UInt64](repeating: 0, count: ranges.count)
        let counts = places.map(\.count)
        try checked("estimate sizes") { error in
            bounds.withUnsafeBufferPointer { buffer in
                let pointers = places.map { buffer.baseAddress! + $0.offset as UnsafePointer<CChar>? }
                pointers.withUnsafeBufferPointer { pointers in
                    counts.withUnsafeBufferPointer { counts in
                        rocksdb_approximate_sizes(
                            opened, Int32(ranges.count), pointers.baseAddress, counts.baseAddress,
                            pointers.baseAddress! + ranges.count, counts.baseAddress! + ranges.count, &sizes, &error)
                    }
                }
            }
        }
        return sizes
    }
}
