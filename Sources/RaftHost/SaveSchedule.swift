import RaftCore

/// When a replica's volatile state is saved: once so much was applied since the last time. How much differs from save to
/// save and from replica to replica, between half of the bound and all of it, so that replicas that are equally busy do
/// not all save at the same time.
struct SaveSchedule {
    private let bytesMax: Int
    private let entriesMax: Int
    /// Of the replica: each of a group draws differently.
    private let seed: UInt64
    private var bytesDue = 0
    private var entriesDue = 0
    /// The last entry that is saved.
    private(set) var saved: LogIndex
    /// Payload bytes applied behind it.
    private var bytes = 0
    /// Of those, the ones in the picture that is being written.
    private var bytesFrozen = 0

    init(_ settings: RaftHost.Settings, group: String, peer: PeerID, saved: LogIndex) {
        precondition(settings.saveBytes > 0 && settings.saveEntries > 0)
        (bytesMax, entriesMax) = (settings.saveBytes, settings.saveEntries)
        var hash = RollingHash()
        hash.combine(Bytes(group))
        hash.combine(Bytes(peer.description))
        seed = hash.value
        self.saved = saved
        draw()
    }

    /// Entries up to `applied` are applied, `bytes` more than at the last call. Whether it is time to save.
    mutating func isDue(applied: LogIndex, bytes more: Int) -> Bool {
        bytes += more
        return bytes >= bytesDue || saved.distance(to: applied) >= entriesDue
    }

    /// A picture of what is applied was made.
    mutating func noteFrozen() { bytesFrozen = bytes }

    /// The picture is durable.
    mutating func noteSaved(through index: LogIndex) {
        saved = index
        bytes -= bytesFrozen
        bytesFrozen = 0
        draw()
    }

    private mutating func draw() {
        var random = SeededRandom(seed: seed ^ UInt64(bitPattern: saved.rawValue))
        func part(of bound: Int) -> Int { bound - Int(random.number(in: 0..<Int64(bound / 2 + 1))) }
        bytesDue = part(of: bytesMax)
        entriesDue = part(of: entriesMax)
    }
}
