import RaftCore
import RaftHost

/// Clients' commands and reads with what came of them, and the judge of it.
///
/// A command's tag is used once: nobody repeats a command, so it is in the log once or not at all.
final class ClientHistory {
    enum Outcome: Equatable {
        /// Nobody will ever tell: its node died, or lost its leadership.
        case unknown
        case applied(LogPosition)
        case notExecuted
    }

    struct CommandRecord {
        var position: Int
        var outcome: Outcome
        var invoked: Instant
        var responded: Instant?
    }

    private let cluster: HostCluster
    /// By tag, from 1.
    private(set) var commands: [CommandRecord] = []
    private(set) var violations: [String] = []
    private(set) var readsAnswered = 0
    private(set) var readsRefused = 0
    /// By group: the highest index that a client has learned to be applied, from a reply or from a read. Whatever
    /// begins later must see it.
    private var seen: [LogIndex]
    /// A fingerprint of what clients were told, and when.
    private(set) var digest: UInt64 = 0

    init(_ cluster: HostCluster) {
        self.cluster = cluster
        seen = Array(repeating: .zero, count: cluster.groupCount)
    }

    var acknowledged: Int {
        commands.count { if case .applied = $0.outcome { true } else { false } }
    }

    /// Proposes a new command on `node`.
    func propose(to position: Int, byteCount: Int, on node: SimulatedNode) {
        commands.append(CommandRecord(position: position, outcome: .unknown, invoked: cluster.world.now))
        let tag = UInt64(commands.count)
        let group = cluster.histories[position].group
        let host = node.host!
        node.lane.post { [self] in
            let payload = Command.payload(tag: tag, byteCount: byteCount)
            host.propose(payload, to: group) { [self] outcome in finish(tag, outcome) }
        }
    }

    private func finish(_ tag: UInt64, _ outcome: ProposalOutcome) {
        let number = Int(tag) - 1
        if commands[number].responded != nil { violations.append("command \(tag) was answered twice") }
        commands[number].responded = cluster.world.now
        mix(tag)
        switch outcome {
        case .applied(let reply, let position):
            commands[number].outcome = .applied(position)
            mix(UInt64(position.index.rawValue))
            let group = commands[number].position
            seen[group] = max(seen[group], position.index)
            if reply.text != "\(tag)@\(position)" { violations.append("command \(tag) got the reply \(reply)") }
        case .notLeader, .refused: commands[number].outcome = .notExecuted
        case .unknown: break
        }
    }

    /// Reads on `node`; the answer must not be older than anything learned before now.
    func read(_ position: Int, on node: SimulatedNode) {
        let least = seen[position]
        let group = cluster.histories[position].group
        let host = node.host!
        let machine = node.machines[position]
        node.lane.post { [self] in
            host.read(group) { [self] outcome in
                guard case .ready = outcome else { return readsRefused += 1 }
                host.evaluate { machine.appliedPosition.index } completion: { [self] index in
                    readsAnswered += 1
                    mix(UInt64(index.rawValue))
                    if index < least { violations.append("\(group): a read saw \(index), \(least) was known before") }
                    seen[position] = max(seen[position], index)
                }
            }
        }
    }

    private func mix(_ value: UInt64) {
        for word in [value, UInt64(bitPattern: cluster.world.now.nanoseconds)] {
            digest = (digest ^ word) &* 0x100_0000_01b3
        }
    }

    /// Holds the clients' knowledge against what was applied.
    func judge() -> [String] {
        var found = violations
        var places: [UInt64: LogPosition] = [:]
        for (position, history) in cluster.histories.enumerated() {
            for (offset, entry) in history.entries.enumerated() where entry.tag != 0 {
                let place = LogPosition(term: entry.term, index: LogIndex(Int64(offset + 1)))
                guard entry.tag <= UInt64(commands.count), commands[Int(entry.tag) - 1].position == position else {
                    found.append("\(history.group): a command nobody proposed there at \(place)")
                    continue
                }
                if let known = places.updateValue(place, forKey: entry.tag) {
                    found.append("\(history.group): command \(entry.tag) was applied at \(known) and at \(place)")
                }
            }
        }
        for (number, command) in commands.enumerated() {
            let tag = UInt64(number + 1)
            switch command.outcome {
            case .applied(let place) where places[tag] != place:
                found.append("command \(tag) was acknowledged at \(place) and is not there")
            case .notExecuted where places[tag] != nil:
                found.append("command \(tag) was refused and applied all the same")
            default: break
            }
        }
        return found
    }
}
