import Flotilla
import Glibc
import RaftCore

/// braft's counter: one number, replicated. A command is the number to add, as decimal text; the reply is the number
/// before it.
final class Counter: VolatileStateMachine, @unchecked Sendable {
    // only ever touched by the host's worker
    private var value: Int64 = 0

    func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes] {
        entries.map { entry in
            guard entry.kind == .data, let amount = Int64(entry.payload.text) else { return Bytes() }
            let before = value
            value &+= amount
            return Bytes("\(before)")
        }
    }

    func read(_ query: Bytes) throws(StateMachineError) -> Bytes { Bytes("\(value)") }

    func frozen() -> any StatePieces { EncodedPieces(CollectionOfOne(value)) { Bytes("\($0)") } }

    func restore(from pieces: inout any StatePieces) throws(StateMachineError) {
        guard let piece = try pieces.next(), let saved = Int64(piece.text) else {
            throw StateMachineError("a counter is saved as a number")
        }
        value = saved
    }
}

/// `CounterExample ADDRESS PEER,PEER,… DIR`: runs one of the nodes; a line on standard input is added, an empty line
/// reads.
@main struct CounterExample {
    static func main() async {
        let arguments = CommandLine.arguments
        let peers = arguments.count == 4 ? arguments[2].split(separator: ",").compactMap { NodeAddress($0) } : []
        guard arguments.count == 4, let address = NodeAddress(arguments[1]), peers.contains(address) else {
            print("usage: CounterExample 127.0.0.1:9001 127.0.0.1:9001,127.0.0.1:9002,127.0.0.1:9003 DIR")
            exit(2)
        }
        do throws(EmbeddedError) {
            let node = try EmbeddedNode(
                address: address, peers: peers, dataDirectory: arguments[3], cluster: "counter",
                groups: ["counter": .volatile { Counter() }])
            while let line = readLine() {
                do throws(EmbeddedError) {
                    let reply =
                        line.isEmpty
                        ? try await node.read(Bytes(), from: "counter")
                        : try await node.start(Bytes(line), on: "counter")
                    print(reply.text)
                } catch {
                    print("error: \(error)")
                }
                fflush(nil)
            }
            node.stop()
        } catch {
            print("error: \(error)")
            exit(1)
        }
    }
}
