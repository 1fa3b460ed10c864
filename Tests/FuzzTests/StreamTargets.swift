import RaftCore
import Transport

@testable import Gateway
@testable import raftctl

// Whatever comes in as a stream: RPC frames, Redis commands, lines of a file.

/// Keeps what is sent.
final class Sink: Connection {
    let id: UInt64 = 1
    let peerDescription = "fuzz"
    var unsentBytes = 0
    var context: AnyObject?
    var isReadingPaused = false
    var isClosed = false
    var sent: [UInt8] = []

    func send(_ bytes: Bytes) { sent += bytes.array }
    func close(reason: String) { isClosed = true }
    func closeAfterSending(reason: String) { isClosed = true }
}

/// Presents `stream` in pieces whose lengths are drawn from `cuts`, as a connection does.
private func feed(_ stream: Bytes, cuts: Bytes, to handler: any ConnectionHandler, on sink: Sink) {
    var choices = Choices(cuts)
    var (start, end) = (0, 0)
    while end < stream.count, !sink.isClosed {
        end = choices.isAtEnd ? stream.count : min(stream.count, end + 1 + Int(choices.byte()))
        let consumption = handler.received(stream.slice(from: start, count: end - start), on: sink)
        precondition((0...end - start).contains(consumption.consumed), "consumed what is not there")
        start += consumption.consumed
    }
    handler.closed(sink, reason: "the end")
}

/// The server's side of baidu_std, with one service that answers at once.
func fuzzRpc(_ input: Bytes) {
    var choices = Choices(input)
    let cuts = choices.run()
    let server = RpcServer(address: NodeAddress(ip: 1, port: 1))
    server.register("braft.RaftService") { method, request in
        switch method {
        case "echo": request.responder.reply(body: request.body, attachment: [request.attachment])
        case "fail": request.responder.fail(-1, request.service)
        default: return false
        }
        return true
    }
    feed(choices.rest, cuts: cuts, to: server.makeHandler(), on: Sink())
}

/// A stream of Redis commands gives the same requests however it is cut.
func fuzzRedis(_ input: Bytes) {
    var choices = Choices(input)
    let cuts = choices.run()
    let stream = choices.rest
    let whole = requests(in: stream, cuts: Bytes())
    precondition(whole == requests(in: stream, cuts: cuts), "how a stream is cut makes a difference")
}

private func requests(in stream: Bytes, cuts: Bytes) -> [String] {
    var parser = RequestParser(limits: RequestParser.Limits(bulkBytes: 200, commandBytes: 600, arguments: 20))
    var choices = Choices(cuts)
    var found: [String] = []
    var (start, end) = (0, 0)
    while end < stream.count {
        end = choices.isAtEnd ? stream.count : min(stream.count, end + 1 + Int(choices.byte()))
        var position = 0
        let presented = stream.slice(from: start, count: end - start)
        while case .request(let request) = parser.next(presented, &position) {
            switch request.body {
            case .command(let arguments): found.append(arguments.map(\.description).joined(separator: "|"))
            case .refused(let refusal): found.append("refused \(refusal.text)")
            case .violation(let refusal): return found + ["violation \(refusal.text)"]
            }
        }
        parser.settle()
        start += position
    }
    return found
}

/// A record that is read is written and read again as the same.
func fuzzRecords(_ input: Bytes) {
    var choices = Choices(input)
    let format = choices.flag() ? RecordFormat.tsv : .jsonl
    guard case .success(let record) = choices.rest.withUnsafeBytes({ format.record($0) }) else { return }
    for other in [RecordFormat.tsv, .jsonl] {
        var line: [UInt8] = []
        other.append(record, to: &line)
        let again = line.dropLast().withUnsafeBytes { other.record($0) }
        guard case .success(let read) = again, read == record else { preconditionFailure("another record came back") }
    }
}
