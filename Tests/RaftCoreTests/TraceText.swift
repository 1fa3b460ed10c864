@testable import RaftCore

/// What a script's commands did, line by line.
struct TraceRecord {
    private(set) var lines: [String] = []
    /// Nothing is written down.
    var isMuted = false
    /// Only what changes in the nodes is written down, not what they say.
    var hidesMessages = false
    private var depth = 0
    /// Of what happens while time passes; a line above whatever happens then.
    var time: Instant? {
        didSet {
            if oldValue != nil, !isTimeDue { depth -= 1 }
            isTimeDue = time != nil
        }
    }
    private var isTimeDue = false

    /// Somebody changed.
    mutating func state(_ line: String) { add(line) }

    /// Something is on its way.
    mutating func message(_ line: String) {
        if !hidesMessages { add(line) }
    }

    /// Something arrives; what follows from it comes below.
    mutating func heading(_ line: String) {
        guard !hidesMessages else { return }
        add(line)
        depth += 1
    }

    mutating func endHeading() {
        if !hidesMessages { depth -= 1 }
    }

    /// Something that must not happen.
    mutating func violation(_ line: String) { add("VIOLATION: \(line)") }

    private mutating func add(_ line: String) {
        guard !isMuted else { return }
        if isTimeDue, let time {
            isTimeDue = false
            lines.append("at \(time)")
            depth += 1
        }
        lines.append(String(repeating: "  ", count: depth) + line)
    }

    mutating func drain() -> [String] {
        defer { lines = [] }
        return lines
    }
}

extension TraceCluster {
    /// Writes down how a step changed a replica.
    mutating func describe(_ node: Int, since before: Raft, _ effects: Effects) {
        let after = self[node].raft
        if let refusal = effects.refusal { record.state("\(node) refuses: \(refusal.rawValue)") }
        let votes =
            (before.vote != after.vote || before.term != after.term) && after.vote != nil && after.vote != after.id
        if votes { record.state("\(node) votes for \(after.vote!.traceName) in term \(after.term)") }
        let hasChanged = before.role != after.role || before.term != after.term || before.leader != after.leader
        if hasChanged, !(votes && after.leader == nil) {
            record.state("\(node) \(after.traceRole)")
        } else if before.role == .follower, before.isResting != after.isResting {
            record.state("\(node) \(after.isResting ? "rests" : "wakes")")
        }
        describeLog(node, since: before, effects)
        if before.configuration != after.configuration {
            record.state("\(node) has configuration \(after.configuration.traceText)")
        }
        if before.debt != nil, after.debt == nil { record.state("\(node) owes nothing any more") }
        if before.commitIndex != after.commitIndex { record.state("\(node) commits through \(after.commitIndex)") }
        if self[node].isSlow, let applicable = effects.applicable {
            record.state("\(node) applies through \(applicable)")
        }
        if before.isTransferring != after.isTransferring, after.isLeader {
            let target = after.leadership?.transfer?.target.traceName
            record.state("\(node) " + (target.map { "hands over to \($0)" } ?? "no longer hands over"))
        }
        if before.leadership?.hasGivenUpLease == false, after.leadership?.hasGivenUpLease == true {
            record.state("\(node) gives up its lease for term \(after.term)")
        }
        describeReads(node, effects)
        for (change, outcome) in effects.finishedChanges {
            record.state("\(node) change \(change): \(outcome.traceText)")
        }
    }

    private mutating func describeLog(_ node: Int, since before: Raft, _ effects: Effects) {
        if let install = effects.install {
            let rest = install.keepsSuffix ? "keeps what follows" : "drops its log"
            record.state("\(node) installs the snapshot through \(install.meta.last), \(rest)")
        }
        if let change = effects.logChange {
            if let first = change.truncateFrom { record.state("\(node) cuts its log from \(first)") }
            let last = change.first.advanced(by: change.count - 1)
            record.state("\(node) appends \(change.first == last ? "\(last)" : "\(change.first)..\(last)")")
        }
        if let meta = effects.snapshotWanted { record.state("\(node) fetches the snapshot through \(meta.last)") }
    }

    private mutating func describeReads(_ node: Int, _ effects: Effects) {
        for read in effects.readyReads {
            record.state(
                "\(node) may serve read \(read.read) at index \(read.index)" + (read.lease == nil ? "" : " by lease"))
        }
        for read in effects.failedReads { record.state("\(node) fails read \(read)") }
    }

    /// Writes down which promises a node's view gained or lost.
    mutating func describePromises(of node: Int, since before: NodeLiveness, at now: Instant) {
        let after = self[node].liveness
        for other in nodes where other.number != node {
            let address = other.id.address
            let given = after.promiseStamp(to: address, now: now)
            if given != nil, given != promises[[node, other.number]] {
                record.state("\(node) promises \(other.number) its support, \(given!.traceText)")
            } else if given == nil, promises[[node, other.number]] != nil {
                record.state("\(node)'s promise to \(other.number) is over")
            }
            promises[[node, other.number]] = given
            let counted = after.supportStamp(from: address, now: now)
            if counted != nil, counted != support[[node, other.number]] {
                record.state("\(node) counts on \(other.number), \(counted!.traceText)")
            } else if counted == nil, support[[node, other.number]] != nil {
                record.state("\(node) no longer counts on \(other.number)")
            }
            support[[node, other.number]] = counted
        }
    }

    /// The logs side by side, by the terms of their entries. `|` stands behind what a node knows to be committed, `~`
    /// behind an entry that is not durable, `c` behind a configuration, `·` for what a snapshot stands for.
    mutating func describeLogs() {
        let width = 4
        let last = nodes.map { Int($0.log.lastIndex.rawValue) }.max() ?? 0
        func cell(_ text: String) -> String { text + String(repeating: " ", count: max(1, width - text.count)) }
        record.state(cell("") + (last > 0 ? (1...last).map { cell("\($0)") }.joined() : "").trimmedEnd)
        for node in nodes {
            let log = node.isUp ? node.log : node.disk.log
            var row = cell("\(node.number)\(node.isUp ? "" : "†")")
            for index in 0..<max(0, Int(log.lastIndex.rawValue)) {
                let place = LogIndex(Int64(index) + 1)
                var text = "·"
                if let entry = log.entry(at: place) {
                    text = "\(entry.term)" + (entry.kind == .configuration ? "c" : "")
                    if node.isUp, place > node.raft.durableIndex { text += "~" }
                }
                if node.isUp, place == node.raft.commitIndex { text += "|" }
                row += cell(text)
            }
            record.state(row.trimmedEnd)
        }
    }

    mutating func describeStatus() {
        for node in nodes {
            guard node.isUp else {
                record.state("\(node.number) is down")
                continue
            }
            record.state("\(node.number) \(node.raft.traceStatus)")
            for peer in node.raft.leadership?.peers ?? [] {
                record.state(
                    "  \(peer.peer.traceName): \(peer.state), match \(peer.match), next \(peer.next)"
                        + (peer.isVoter || peer.isOldVoter ? "" : ", no voter"))
            }
        }
    }
}

extension Raft {
    var traceRole: String {
        switch role {
        case .leader: return "leads term \(term)"
        case .candidate: return "asks for votes in term \(term)"
        case .preCandidate: return "asks whether it would be elected, in term \(term)"
        case .follower: return "follows \(leader?.traceName ?? "nobody") in term \(term)"
        }
    }

    var isResting: Bool { electionDeadline == nil && !isLeader }

    var traceStatus: String {
        let voted = vote.map { ", voted for \($0.traceName)" } ?? ""
        let rests = role == .follower ? (isResting ? ", rests" : ", awake") : ""
        let owes = debt.map { ", owes \($0)" } ?? ""
        return "\(traceRole)\(voted), log \(log.last), commit \(commitIndex)\(owes)\(rests)"
    }
}

extension PeerID {
    var traceName: String { "\(address.port)" }
    var traceMember: String { traceName + (role == .witness ? "w" : role == .learner ? "l" : "") }
}

extension Configuration {
    var traceText: String {
        func set(_ peers: [PeerID]) -> String { "{" + peers.map(\.traceMember).joined(separator: " ") + "}" }
        return (isJoint ? "\(set(oldPeers))+" : "") + set(listed)
    }
}

extension SupportStamp {
    var traceText: String { "epoch \(epoch) of runs \(supporterRun) and \(askerRun)" }
}

extension ChangeOutcome {
    var traceText: String {
        switch self {
        case .done(let index): return "done at \(index)"
        case .refused(let why): return "refused, \(why.rawValue)"
        case .notCaughtUp(let peer): return "\(peer.traceName) did not catch up"
        case .unknown: return "outcome unknown"
        }
    }
}

extension TraceWrite {
    var traceText: String {
        var parts: [String] = []
        if let hardState {
            parts.append("term \(hardState.term)" + (hardState.vote.map { " vote \($0.traceName)" } ?? ""))
        }
        if let install { parts.append("the snapshot through \(install.meta.last)") }
        if let truncateFrom { parts.append("the cut from \(truncateFrom)") }
        if !entries.isEmpty { parts.append("the log through \(mark.index), written in term \(mark.term)") }
        return parts.joined(separator: " and ")
    }
}

extension TracePacket {
    var traceText: String { "\(from)→\(to) \(message.traceText)" }
}

extension Message {
    var traceKind: String {
        switch self {
        case .voteRequest(let request): return request.isPreVote ? "pre-vote" : "vote"
        case .voteReply(let reply): return reply.isPreVote ? "pre-vote-reply" : "vote-reply"
        case .appendRequest: return "append"
        case .appendReply: return "append-reply"
        case .timeoutNowRequest: return "timeout-now"
        case .timeoutNowReply: return "timeout-now-reply"
        case .releaseRequest: return "release"
        case .releaseReply: return "release-reply"
        case .readIndexRequest: return "read-index"
        case .readIndexReply: return "read-index-reply"
        case .snapshotRequest: return "snapshot"
        case .snapshotReply: return "snapshot-reply"
        }
    }

    static let traceKinds = [
        "pre-vote", "pre-vote-reply", "vote", "vote-reply", "append", "append-reply", "timeout-now",
        "timeout-now-reply", "release", "release-reply", "read-index", "read-index-reply", "snapshot",
        "snapshot-reply",
    ]

    var traceText: String { "\(traceKind) \(traceDetail)" }

    private var traceDetail: String {
        switch self {
        case .voteRequest(let request):
            let handOver =
                request.handOver.map { " by order of \($0.leader.traceName), leader of term \($0.term)" } ?? ""
            return "term \(request.term) last \(request.last)\(handOver)"
        case .voteReply(let reply): return "term \(reply.term) \(reply.granted ? "yes" : "no")"
        case .appendRequest(let request): return request.traceText
        case .appendReply(let reply): return reply.traceText
        case .timeoutNowRequest(let request):
            return "term \(request.term)" + (request.oldLeaderSteppedDown ? " stepped down" : "")
        case .timeoutNowReply(let reply): return "term \(reply.term) \(reply.success ? "yes" : "no")"
        case .releaseRequest(let request): return "term \(request.term)"
        case .releaseReply(let reply): return "term \(reply.term)"
        case .readIndexRequest(let request): return "#\(request.sequence) term \(request.term)"
        case .readIndexReply(let reply):
            return "#\(reply.sequence) " + (reply.index.map { "index \($0)" } ?? "no")
        case .snapshotRequest(let request):
            return "term \(request.term) through \(request.meta.last) \(request.meta.configuration.traceText)"
        case .snapshotReply(let reply): return "term \(reply.term) \(reply.success ? "yes" : "no")"
        }
    }
}

extension AppendRequest {
    /// Entries as runs of a term: `5..6@2 7@3`.
    var traceText: String {
        var runs: [String] = []
        var start = 0
        for offset in entries.indices
        where offset + 1 == entries.count || entries[offset + 1].term != entries[start].term {
            let (first, last) = (previous.index.advanced(by: start + 1), previous.index.advanced(by: offset + 1))
            runs.append(first == last ? "\(first)@\(entries[start].term)" : "\(first)..\(last)@\(entries[start].term)")
            start = offset + 1
        }
        let text = runs.isEmpty ? "no entries" : "entries " + runs.joined(separator: " ")
        return "term \(term) prev \(previous) \(text) commit \(commit)"
    }
}

extension AppendReply {
    var traceText: String {
        let promise = support.map { " promise \($0.epoch)" } ?? ""
        if success { return "term \(term) holds through \(ticket.previous.advanced(by: ticket.count))\(promise)" }
        let hint = lastIndex.map { " at most \($0)" + (lastTerm.map { "@\($0)" } ?? "") } ?? ""
        return "term \(term) no, prev \(ticket.previous)\(hint)\(promise)"
    }
}

extension String {
    fileprivate var trimmedEnd: String {
        var text = self
        while text.last == " " { text.removeLast() }
        return text
    }
}
