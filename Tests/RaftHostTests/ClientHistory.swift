import RaftCore
import RaftHost

/// Clients' commands and reads with what came of them, and the judge of it.
///
/// A command's tag is used once: nobody repeats a command, so it is in the log once or not at all.
final class ClientHistory {
    enum Outcome: Equatable {
        /// Its replica lost the leadership: nobody can tell.
        case unknown
        case applied(LogPosition)
        case notExecuted
    }

    /// A node in one of its lives: an answer may fail to come only if that ended.
    private struct Server {
        let node: SimulatedNode
        let life: Int

        init(_ node: SimulatedNode) {
            self.node = node
            life = node.life
        }

        var lives: Bool { node.isRunning && node.life == life && node.failure == nil && !node.isStopping }
    }

    private struct CommandRecord {
        var position: Int
        var server: Server
        var outcome: Outcome?
    }

    private struct ReadRecord {
        var server: Server
        var answer: LogIndex?
        var isOver = false
    }

    private let cluster: HostCluster
    /// By tag, from 1.
    private var commands: [CommandRecord] = []
    private var reads: [ReadRecord] = []
    private var violations: [String] = []
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

    var readsAnswered: Int { reads.count { $0.answer != nil } }

    /// Nil while nobody has answered.
    func outcome(ofCommand tag: UInt64) -> Outcome? { commands[Int(tag) - 1].outcome }

    /// Nil while nobody has answered, or if it was refused.
    func answer(ofRead number: Int) -> LogIndex? { reads[number].answer }

    /// Proposes a new command on `node`; its tag.
    @discardableResult
    func propose(to position: Int, byteCount: Int, on node: SimulatedNode) -> UInt64 {
        commands.append(CommandRecord(position: position, server: Server(node)))
        let tag = UInt64(commands.count)
        let group = cluster.histories[position].group
        let host = node.host!
        node.lane.post { [self] in
            let payload = Command.payload(tag: tag, byteCount: byteCount)
            host.propose(payload, to: group) { [self] outcome in finish(tag, outcome) }
        }
        return tag
    }

    private func finish(_ tag: UInt64, _ outcome: ProposalOutcome) {
        let number = Int(tag) - 1
        if commands[number].outcome != nil { violations.append("command \(tag) was answered twice") }
        mix(tag)
        switch outcome {
        case .applied(let reply, let position):
            commands[number].outcome = .applied(position)
            mix(UInt64(position.index.rawValue))
            let group = commands[number].position
            seen[group] = max(seen[group], position.index)
            if reply.text != "\(tag)@\(position)" { violations.append("command \(tag) got the reply \(reply)") }
        case .notLeader, .refused: commands[number].outcome = .notExecuted
        case .unknown: commands[number].outcome = .unknown
        }
    }

    /// Reads on `node`; the answer must not be older than anything learned before now. The read's number.
    @discardableResult
    func read(_ position: Int, on node: SimulatedNode) -> Int {
        let number = reads.count
        reads.append(ReadRecord(server: Server(node)))
        let least = seen[position]
        let group = cluster.histories[position].group
        let host = node.host!
        let machine = node.machines[position]
        node.lane.post { [self] in
            host.read(group) { [self] outcome in
                if reads[number].isOver { violations.append("read \(number) was answered twice") }
                reads[number].isOver = true
                guard case .ready(let moment) = outcome else { return }
                host.evaluate(at: moment) {
                    machine.appliedPosition.index
                } completion: { [self] index in
                    // a lease that lapsed is no answer
                    guard let index else { return }
                    reads[number].answer = index
                    mix(UInt64(index.rawValue))
                    if index < least { violations.append("\(group): a read saw \(index), \(least) was known before") }
                    seen[position] = max(seen[position], index)
                }
            }
        }
        return number
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
            case nil where command.server.lives: found.append("command \(tag) was never answered")
            default: break
            }
        }
        for (number, read) in reads.enumerated() where !read.isOver && read.server.lives {
            found.append("read \(number) was never answered")
        }
        return found
    }
}
