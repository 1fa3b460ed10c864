public import RaftCore

/// What a checker remembers of a log: of each entry its term, and one number that stands for the entry and all before
/// it. Two logs agree up to an index if and only if (but for 64-bit accidents) their numbers there are equal, so whole
/// prefixes are compared in one step.
public struct LogChain: Equatable, Sendable {
    /// An entry.
    public struct Link: Equatable, Sendable {
        /// Its term.
        public var term: Term
        /// Stands for the log up to here.
        public var chain: UInt64
    }

    private var links: [Link] = []

    /// An empty log.
    public init() {}

    /// Index of the last entry.
    public var lastIndex: LogIndex { LogIndex(Int64(links.count)) }
    /// The last entry; zero if there is none.
    public var last: LogPosition { LogPosition(term: links.last?.term ?? .zero, index: lastIndex) }

    /// The entry at `index`, if there is one.
    public subscript(index: LogIndex) -> Link? {
        index > .zero && index <= lastIndex ? links[Int(index.rawValue) - 1] : nil
    }

    /// What stands for the log up to `index`; nil if it does not reach that far.
    public func chain(at index: LogIndex) -> UInt64? {
        index == .zero ? 0 : self[index]?.chain
    }

    /// Adds an entry; `fingerprint` stands for its kind and payload.
    public mutating func append(term: Term, fingerprint: UInt64) {
        links.append(
            Link(
                term: term, chain: mixed(mixed(links.last?.chain ?? 1, UInt64(bitPattern: term.rawValue)), fingerprint))
        )
    }

    /// Adds what `other`, which begins with this log, has behind it up to `index`.
    mutating func extend(by other: LogChain, through index: LogIndex) {
        let end = min(Int(index.rawValue), other.links.count)
        if links.count < end { links += other.links[links.count..<end] }
    }

    /// Removes the entry at `index` and all behind it.
    public mutating func truncate(from index: LogIndex) {
        let kept = max(0, Int(index.rawValue) - 1)
        if kept < links.count { links.removeLast(links.count - kept) }
    }
}

/// One step of a hash that is the same in every process (splitmix64's finisher).
func mixed(_ hash: UInt64, _ value: UInt64) -> UInt64 {
    var mixed = (hash ^ value) &+ 0x9e37_79b9_7f4a_7c15
    mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
    return mixed ^ (mixed >> 31)
}

/// Stands for `bytes`, the same in every process.
func fingerprint(_ bytes: Bytes) -> UInt64 {
    bytes.withUnsafeBytes { buffer in
        var hash = mixed(0x51a7, UInt64(buffer.count))
        var position = 0
        while position + 8 <= buffer.count {
            hash = mixed(hash, buffer.loadUnaligned(fromByteOffset: position, as: UInt64.self))
            position += 8
        }
        var rest: UInt64 = 0
        while position < buffer.count {
            rest = rest << 8 | UInt64(buffer[position])
            position += 1
        }
        return mixed(hash, rest)
    }
}
