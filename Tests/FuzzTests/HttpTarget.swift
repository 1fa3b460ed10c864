import RaftCore
import Transport

@testable import Gateway

// HTTP, and the JSON in it.

/// Requests that come in a stream are answered alike however it is cut.
func fuzzHttp(_ input: Bytes) {
    var choices = Choices(input)
    let cuts = choices.run()
    let stream = choices.rest
    let whole = answers(to: stream, cuts: Bytes())
    precondition(whole == answers(to: stream, cuts: cuts), "how a stream is cut makes a difference")
}

private func answers(to stream: Bytes, cuts: Bytes) -> [UInt8] {
    let rpc = RpcServer(address: NodeAddress(ip: 1, port: 1))
    for service in ["braft.CliService", "flotilla.ClusterService"] {
        rpc.register(service) { method, request in
            switch method {
            // whatever is asked comes back, which may not be the reply that is promised
            case "get_leader", "status", "operate": request.responder.reply(body: request.body)
            case "add_peer": request.responder.fail(-1, request.service)
            default: return false
            }
            return true
        }
    }
    rpc.register("braft.raft_stat") { _, request in
        request.responder.reply(body: Bytes(), attachment: [Bytes(request.path)])
        return true
    }
    var settings = HttpServer.Settings()
    (settings.targetBytes, settings.headBytes, settings.bodyBytes) = (100, 300, 600)
    let sweep = DeadlineSweep(clock: SystemClock())
    let server = HttpServer(
        rpc: rpc, settings: settings, sweep: sweep, version: "1", status: { "" }, metrics: { "" })
    let handler = server.makeHandler()
    let connection = Sink()
    var pieces = Choices(cuts)
    var (start, end) = (0, 0)
    while end < stream.count, !connection.isClosed {
        end = pieces.isAtEnd ? stream.count : min(stream.count, end + 1 + Int(pieces.byte()))
        let consumption = handler.received(stream.slice(from: start, count: end - start), on: connection)
        precondition(consumption.consumed == end - start, "every answer was given at once")
        start = end
    }
    handler.closed(connection, reason: "the end")
    return oneRefusal(withoutContinue(connection.sent))
}

/// Of a request that is wrong in more than one way, what is refused first depends on how much of it has come.
private func oneRefusal(_ sent: [UInt8]) -> [UInt8] {
    let word = Array("HTTP/1.1 4".utf8)
    guard let last = sent.indices.last(where: { sent[$0...].starts(with: word) }) else { return sent }
    let status = String(decoding: sent[last...].dropFirst(word.count).prefix(2), as: UTF8.self)
    return ["00", "13", "14", "31"].contains(status) ? sent[...last] + Array("refused".utf8) : sent
}

/// Whether somebody has to be told to go on depends on what has come.
private func withoutContinue(_ sent: [UInt8]) -> [UInt8] {
    let word = Array("HTTP/1.1 100 Continue\r\n\r\n".utf8)
    var result: [UInt8] = []
    var rest = sent[...]
    while let byte = rest.first {
        if rest.starts(with: word) {
            rest = rest.dropFirst(word.count)
        } else {
            result.append(byte)
            rest = rest.dropFirst()
        }
    }
    return result
}

/// A text that is a message is written as one that is the same message.
func fuzzJson(_ input: Bytes) {
    var choices = Choices(input)
    let catalog = ServiceCatalog()
    let service = catalog.names[choices.number(below: catalog.names.count)]
    let methods = catalog.methods(of: service)
    guard let method = catalog.method(service, methods[choices.number(below: methods.count)]) else {
        preconditionFailure("a method that is listed has no messages")
    }
    let descriptor = choices.flag() ? method.request : method.reply
    let mapping = JsonMapping()
    let packed: Bytes
    do throws(JsonProblem) { packed = try mapping.decode(choices.rest, as: descriptor) } catch { return }
    do throws(JsonProblem) {
        let text = try mapping.encode(packed, as: descriptor)
        let again = try mapping.decode(Bytes(text), as: descriptor)
        precondition(again == packed, "another message came back")
    } catch {
        preconditionFailure("what was read cannot be written: \(error.text)")
    }
}
