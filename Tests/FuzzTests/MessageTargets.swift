import CMessages
import RaftCore
import RaftStorage
import WireMessages

@testable import RaftHost
@testable import ShardKV
@testable import ShardMap

// Packed messages, each by itself: what is read is packed and read again as the same.

/// Commands of groups and of the controller, requests, replies, maps.
func fuzzCommands(_ input: Bytes) {
    let arena = Arena()
    fuzzGroupCommand(input, arena)
    if let command = try? ControllerCommand.decoded(input, arena) {
        precondition((try? ControllerCommand.decoded(command.encoded(arena), arena)) == command)
    }
    if let request = ExecuteRequest(input, arena) {
        precondition(ExecuteRequest(request.packed(arena), arena) == request)
    }
    if let reply = ExecuteReply(input, arena) { precondition(ExecuteReply(reply.packed(arena), arena) == reply) }
    if let map = ClusterMap(input, arena) { precondition(ClusterMap(map.packed(arena), arena) == map) }
    let record = arena.scope { arena in
        arena.unpack(flotilla__bootstrap_record__init, input).flatMap { BootstrapRecord($0.pointee) }
    }
    if let record, record.groups < 1000 {
        let shards = record.initialMap.shards
        precondition(shards.count == record.boundaries.count + 1)
    }
}

/// A command that the leader has looked at only is what the replicas will see.
private func fuzzGroupCommand(_ input: Bytes, _ arena: Arena) {
    let peek = CommandPeek(input)
    let command: GroupCommand
    do throws(NamedErrorThrown) {
        command = try GroupCommand.decoded(input, arena)
    } catch {
        // once committed it would stop the group
        let isSeen = peek.map { isRefused($0) } ?? true
        return precondition(error.error != .unknownFormat || isSeen, "something newer that the leader does not see")
    }
    precondition((try? GroupCommand.decoded(command.encoded(arena), arena)) == command)
    guard let peek else { return }
    precondition(peek.kind == .other || !isRefused(peek), "something that only the leader takes for newer")
    switch command {
    case .write(let write):
        let setsExpiry = write.operations.contains {
            $0.code == .expire || $0.expiresInMilliseconds != nil || $0.expiresAtMilliseconds != nil
        }
        precondition(peek.kind == .write && peek.operationCount == write.operations.count, "another write")
        precondition(peek.setsExpiry || !setsExpiry, "an expiry that the leader does not see")
    case .openSession: precondition(peek.kind == .openSession, "another command")
    case .install, .time, .verify, .step: precondition(peek.kind == .other, "another command")
    }
}

/// Whether a leader of the newest level proposes this for nobody.
private func isRefused(_ peek: CommandPeek) -> Bool {
    peek.kind == .other || !peek.isKnown || peek.level > UInt64(ClusterLevel.newest)
}

/// Requests and replies between replicas; a request that is read is within what the core can take.
func fuzzRaftWire(_ input: Bytes) {
    var choices = Choices(input)
    let kind = choices.number(below: 9)
    let attachment = choices.run()
    let (wire, body) = (RaftWire(), choices.rest)
    switch kind {
    case 0: _ = try? wire.decodeVoteRequest(body, isPreVote: true)
    case 1:
        guard let (_, request, entries) = try? wire.decodeAppendRequest(body, attachment: attachment) else { return }
        precondition(request.entries.count == entries.count)
        for (offset, entry) in entries.enumerated() {
            precondition(entry.position.index == request.previous.index.advanced(by: offset + 1))
        }
    case 2: _ = try? wire.decodeTimeoutNowRequest(body)
    case 3: _ = try? wire.decodeReleaseRequest(body)
    case 4: _ = try? wire.decodeReadIndexRequest(body, sequence: 1)
    case 5: _ = wire.decodeVoteReply(body, to: VoteRequest(isPreVote: false, term: Term(1), last: .zero))
    case 6:
        let ticket = AppendTicket(term: Term(1), previous: .zero, count: 0, round: 0)
        if let reply = wire.decodeAppendReply(body, to: ticket) {
            let again = wire.decodeAppendReply(wire.packReply(.appendReply(reply)), to: ticket)
            precondition(again == reply)
        }
    case 7:
        if let reply = wire.decodeTimeoutNowReply(body) {
            precondition(wire.decodeTimeoutNowReply(wire.packReply(.timeoutNowReply(reply))) == reply)
        }
    default:
        if let reply = wire.decodeReleaseReply(body) {
            precondition(wire.decodeReleaseReply(wire.packReply(.releaseReply(reply))) == reply)
        }
        _ = wire.decodeReadIndexReply(body, to: ReadIndexRequest(term: Term(1), sequence: 1))
    }
}

/// A node's own records: the note in its log, and its identity file under a checksum that fits or not.
func fuzzIdentity(_ input: Bytes) {
    var choices = Choices(input)
    let kind = choices.number(below: 3)
    let body = choices.rest
    guard kind > 0 else {
        if let state = NodeState(body) { precondition(NodeState(state.packed(Arena())) == state) }
        return
    }
    let disk = MemoryDisk(seed: 1)
    var file = body.array
    if kind == 1 {
        file = Array("FLOTILLA".utf8)
        for value in [UInt32(body.count), CRC32C.checksum(body)] {
            for shift in [24, 16, 8, 0] { file.append(UInt8(truncatingIfNeeded: value >> UInt32(shift))) }
        }
        file += body.array
    }
    disk.setContents("IDENTITY", file)
    let address = NodeAddress(ip: 1, port: 1)
    guard
        let node = try? NodeDirectory(
            disk: disk, address: address, freshIncarnation: 1, promise: .milliseconds(1))
    else { return }
    let again = try? NodeDirectory(disk: disk, address: address, freshIncarnation: 1, promise: .milliseconds(1))
    precondition(again?.identity.runNumber == node.identity.runNumber + 1, "a start is not counted")
}

/// A replica's state in the engine, written by chance; whatever loads also applies.
func fuzzStore(_ input: Bytes) {
    var choices = Choices(input)
    let engine = MemoryEngine()
    var changes: [EngineChange] = []
    let layout = KeyLayout(replicaNumber: 7)
    while !choices.isAtEnd, changes.count < 16 {
        guard let kind = KeyKind(rawValue: choices.byte() % 11 + 1) else { continue }
        changes.append(.put(layout.key(kind, rest: choices.run()), choices.run()))
    }
    try? engine.write(changes)
    _ = try? ControllerStateMachine(engine: engine, replicaNumber: 7)
    guard let machine = try? KeyValueStateMachine(engine: engine, replicaNumber: 7) else { return }
    let arena = Arena()
    let (position, overflow) = machine.appliedPosition.index.rawValue.addingReportingOverflow(1)
    guard !overflow else { return }
    let commands = [
        GroupCommand.openSession(shard: 1, epoch: 1, nonce: 5), .time(1_700_000_000_000),
        .step(ShardStep(operation: 9, shard: 1, epoch: 1, action: .open)),
    ]
    for (offset, command) in commands.enumerated() where position < .max - 3 {
        let place = LogPosition(
            term: machine.appliedPosition.term, index: LogIndex(position + Int64(offset)))
        _ = try? machine.apply([
            CommittedEntry(position: place, kind: .data, payload: command.encoded(arena))
        ])
    }
}
