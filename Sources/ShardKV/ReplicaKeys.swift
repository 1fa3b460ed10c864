public import RaftCore

/// The keys of an engine as its replicas share them: each begins with the number of its replica, eight bytes,
/// big-endian. Numbers are node-local and never reused; the highest one is not used at all.
public enum ReplicaKeys {
    /// Bytes of the number.
    public static let prefixBytes = 8

    /// What all keys of `number` begin with; no key of it is lower.
    public static func start(of number: UInt64) -> Bytes {
        ByteWriter.bytes(prefixBytes) { $0.put(number) }
    }

    /// No key of `number` is as high.
    public static func end(of number: UInt64) -> Bytes {
        precondition(number < .max, "the highest replica number is not used")
        return start(of: number + 1)
    }

    /// The key of `number` that goes on with `rest`.
    static func key(of number: UInt64, _ rest: Bytes) -> Bytes {
        ByteWriter.bytes(prefixBytes + rest.count) { writer in
            writer.put(number)
            writer.put(rest)
        }
    }

    /// The replica that `key` belongs to; nil if it is no replica's.
    public static func number(of key: Bytes) -> UInt64? {
        var reader = ByteReader(key)
        return reader.number()
    }
}
