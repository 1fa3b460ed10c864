import RaftCore
import RaftStorage
import WireMessages

@testable import RaftHost

/// What members say to each other about snapshots: what is read is packed and read again as the same; and however the
/// pieces of the files on offer come, every byte is asked for until it is here, and taken once.
func fuzzSnapshots(_ input: Bytes) {
    var choices = Choices(input)
    let kind = choices.number(below: 6)
    var script = Choices(choices.run())
    let (wire, body) = (RaftWire(), choices.rest)
    switch kind {
    case 0: fuzzOffer(body, wire)
    case 1:
        guard let files = wire.decodeSnapshotFiles(body) else { return }
        let again = wire.arena.scope { arena in arena.pack(wire.snapshotFiles(files, arena: arena)) }
        precondition(wire.decodeSnapshotFiles(again) == files, "other files")
        precondition(files.allSatisfy { !$0.name.contains("/") && $0.byteCount >= 0 }, "no file of a folder")
        fetch(files, &script)
    case 2: _ = wire.decodeSnapshotOpen(body)
    case 3: _ = wire.decodeSnapshotRead(body)
    case 4: _ = wire.decodeSnapshotPiece(body)
    default:
        _ = wire.decodeSnapshotClose(body)
        _ = wire.decodeSnapshotReply(body)
    }
}

private func fuzzOffer(_ body: Bytes, _ wire: RaftWire) {
    guard let (addressing, request, uri) = try? wire.decodeSnapshotRequest(body) else { return }
    let (sender, receiver) = (
        PeerID(address: NodeAddress(ip: 1, port: 1)), PeerID(address: NodeAddress(ip: 2, port: 2))
    )
    let again = wire.arena.scope { arena in
        arena.pack(
            wire.snapshotRequest(
                request, uri: uri, group: addressing.group, from: sender, to: receiver, arena: arena))
    }
    guard let (to, offered, place) = try? wire.decodeSnapshotRequest(again) else {
        preconditionFailure("an offer that is not read again")
    }
    precondition(offered == request && place == uri && to.group == addressing.group, "another offer")
    if let id = RaftWire.snapshotID(uri, from: sender.address) {
        precondition(
            RaftWire.snapshotID("\(RaftWire.snapshotScheme)\(sender.address)/\(id)", from: sender.address) == id)
    }
}

/// Fetches the files in pieces that come, get lost or come in part, as the script says, and in the end all do.
private func fetch(_ files: [StoredFolder.File], _ script: inout Choices) {
    var pieces = SnapshotPieces(of: files)
    var underWay: [SnapshotPieces.Piece] = []
    // of larger ones no copy is kept
    let isSmall = files.count < 100 && files.allSatisfy { $0.byteCount < 1000 }
    var seen = isSmall ? files.map { [Bool](repeating: false, count: $0.byteCount) } : []
    var steps = 0
    while !pieces.isComplete, isSmall || steps < 1000 {
        steps += 1
        if script.flag() || script.isAtEnd, let piece = pieces.next(atMost: 1 + script.number(below: 200)) {
            let size = files[piece.file].byteCount
            precondition(piece.count > 0 && piece.offset >= 0 && piece.count <= size - piece.offset, "no such bytes")
            underWay.append(piece)
        }
        precondition(pieces.underWay == underWay.count)
        guard !underWay.isEmpty else { continue }
        let piece = underWay.remove(at: script.number(below: underWay.count))
        if script.number(below: 3) == 1 {
            pieces.lose(piece)
        } else {
            let count = script.flag() ? 1 + script.short() % piece.count : piece.count
            pieces.take(count, of: piece)
            guard isSmall else { continue }
            for offset in piece.offset..<piece.offset + count {
                precondition(!seen[piece.file][offset], "a byte that came twice")
                seen[piece.file][offset] = true
            }
        }
    }
    guard isSmall else { return }
    precondition(seen.allSatisfy { $0.allSatisfy { $0 } }, "a byte that never came")
    precondition(pieces.received == files.reduce(0) { $0 + $1.byteCount })
}
