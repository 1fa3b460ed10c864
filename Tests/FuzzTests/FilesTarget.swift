import RaftCore
import WireMessages

@testable import RaftHost

/// What a braft says about the files of a snapshot: what is read is packed and read again as the same; a name goes into a
/// folder and comes back; segments lie where they may, and in no more bytes than came.
func fuzzFiles(_ input: Bytes) {
    var choices = Choices(input)
    let kind = choices.number(below: 6)
    let (from, count) = (choices.short(), choices.short())
    let (wire, body) = (RaftWire(), choices.rest)
    switch kind {
    case 0:
        guard let request = wire.decodeGetFileRequest(body) else { return }
        let again = wire.arena.scope { arena in arena.pack(wire.getFileRequest(request, arena: arena)) }
        precondition(wire.decodeGetFileRequest(again) == request, "another request")
    case 1:
        guard let reply = wire.decodeGetFileReply(body) else { return }
        let again = wire.arena.scope { arena in arena.pack(wire.getFileReply(reply, arena: arena)) }
        precondition(wire.decodeGetFileReply(again) == reply, "another reply")
    case 2:
        guard let (files, last) = try? wire.decodeBraftList(body) else { return }
        let again = wire.braftList(files, SnapshotMeta(last: last, configuration: .empty))
        guard let (same, place) = try? wire.decodeBraftList(again) else {
            preconditionFailure("a list that is not read again")
        }
        precondition(same == files && place == last, "another list")
        precondition(files.allSatisfy { !$0.storedName.contains("/") && !$0.storedName.hasPrefix(".") })
        precondition(Set(files.map(\.storedName)).count == files.count, "two files in one place")
    case 3:
        let range = from..<from + count
        guard let segments = RaftWire.segments(body, within: range) else { return }
        // a segment without bytes is its header only
        let left = body.count - segments.reduce(0) { $0 + 12 + $1.bytes.count }
        precondition(left >= 0 && left.isMultiple(of: 12), "bytes of no segment")
        precondition(
            segments.allSatisfy { $0.offset >= range.lowerBound && $0.offset + $0.bytes.count <= range.upperBound })
    case 4:
        guard let source = RaftWire.braftSource(body.text) else { return }
        precondition(RaftWire.braftSource("remote://\(source.address)/\(source.reader)") == source, "another place")
    default:
        let text = body.text
        if let stored = BraftSnapshot.storedName(of: text) {
            precondition(BraftSnapshot.name(ofStored: stored) == text, "another name")
        }
        if let name = BraftSnapshot.name(ofStored: text) {
            precondition(BraftSnapshot.storedName(of: name) == text, "another file")
        }
    }
}
