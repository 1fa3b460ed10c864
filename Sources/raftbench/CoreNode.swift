import RaftCore

/// A message under way between two replicas.
struct Packet {
    /// What the receiver's core is told.
    var event: Event
    var sender: Sender
}

/// Whom to answer.
struct Sender {
    var position: Int
    /// What it remembers of its append and finds again in the answer.
    var ticket: AppendTicket?
}

/// One replica with what a host keeps for it.
struct CoreNode {
    /// What waits for the disk.
    enum Duty {
        case persisted(DurableMark)
        case answer(Packet, to: Int)
        case send(Outbound)
    }

    let id: PeerID
    var raft: Raft
    var log = HeaderLog()
    var inbox: [Packet] = []
    var duties: [Duty] = []
    /// When the replica wants to be woken.
    var deadline: Instant?
    /// Everything up to here is applied.
    var applied = LogIndex.zero

    init(id: PeerID, members: [PeerID], seed: UInt64) {
        self.id = id
        raft = Raft(
            id: id, hardState: .initial, termRuns: [], lastIndex: .zero,
            configurations: [PlacedConfiguration(index: .zero, configuration: Configuration(peers: members))],
            applied: .zero, settings: RaftSettings(), seed: seed)
    }
}

/// The end of a log in memory: the part of an entry that the core knows.
struct HeaderLog {
    /// Entries for which there is room from the start; from half of them on the applied ones are dropped.
    private static let capacity = 1 << 17

    /// Index of the first entry kept.
    private(set) var first = LogIndex(1)
    private var headers: [EntryHeader] = []
    private var configurations: [PlacedConfiguration] = []

    init() { headers.reserveCapacity(HeaderLog.capacity) }

    var isFull: Bool { headers.count > HeaderLog.capacity / 2 }

    mutating func truncate(from index: LogIndex) {
        headers.removeLast(max(0, headers.count - first.distance(to: index)))
        configurations.removeAll { $0.index >= index }
    }

    mutating func append(_ header: EntryHeader, count: Int) {
        headers.append(contentsOf: repeatElement(header, count: count))
    }

    mutating func append(_ added: ArraySlice<EntryHeader>) { headers.append(contentsOf: added) }

    mutating func note(_ placed: PlacedConfiguration) { configurations.append(placed) }

    mutating func drop(through index: LogIndex) {
        headers.removeFirst(first.distance(to: index) + 1)
        configurations.removeAll { $0.index <= index }
        first = index.next
    }

    /// Adds the `count` entries behind `previous` to `buffer`.
    func copy(after previous: LogIndex, count: Int, to buffer: inout [EntryHeader]) {
        let start = first.distance(to: previous.next)
        buffer.append(contentsOf: headers[start..<start + count])
    }

    /// The memberships among those entries.
    func configurations(after previous: LogIndex, count: Int) -> [PlacedConfiguration] {
        guard let last = configurations.last, last.index > previous else { return [] }
        return configurations.filter { $0.index > previous && $0.index <= previous.advanced(by: count) }
    }
}
