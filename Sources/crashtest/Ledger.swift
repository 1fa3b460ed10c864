import RaftCore
import ShardClient
import Synchronization

/// What writers know of the values they wrote: each key has one writer, which writes ever new values, and each counter
/// one that counts.
final class Ledger: Sendable {
    /// A key that is read back wrong.
    struct Loss: CustomStringConvertible {
        var description: String
    }

    private struct Value {
        var acknowledged: String?
        /// Written after that, with an unknown outcome.
        var possible: [String] = []
    }

    private struct Counter {
        /// Increments acknowledged, and with an unknown outcome.
        var acknowledged: Int64 = 0
        var possible: Int64 = 0
    }

    private struct State {
        var values: [Bytes: Value] = [:]
        var counters: [Bytes: Counter] = [:]
        var acknowledged = 0
    }

    private let state = Mutex(State())
    private let isOver = Atomic(false)

    /// Writes acknowledged so far.
    var acknowledged: Int { state.withLock { $0.acknowledged } }

    /// Whether writers should go on.
    var isWriting: Bool {
        get { !isOver.load(ordering: .acquiring) }
        set { isOver.store(!newValue, ordering: .releasing) }
    }

    /// Writes under keys that no other writer uses, all over the groups, until told to end.
    func write(through client: Client, as writer: Int, round: Int) async {
        var step = 0
        while isWriting {
            step += 1
            let start = UInt8(0x21 + (step * 7 + writer) % 94)
            if step % 4 == 0 {
                await count(Bytes([start] + Array("-count-\(writer)".utf8)), through: client)
            } else {
                let key = Bytes([start] + Array("-\(writer)-\(step / 94 % 8)".utf8))
                // long enough for logs to be compacted now and then
                let value = "\(round).\(step)." + String(repeating: "x", count: step * 37 % 2000)
                await put(key, value, through: client)
            }
        }
    }

    private func put(_ key: Bytes, _ value: String, through client: Client) async {
        do throws(ClientError) {
            try await client.put(key, Bytes(value))
            state.withLock { state in
                state.values[key] = Value(acknowledged: value)
                state.acknowledged += 1
            }
        } catch {
            guard error.error.outcome == .unknown else { return }
            state.withLock { $0.values[key, default: Value()].possible.append(value) }
        }
    }

    private func count(_ key: Bytes, through client: Client) async {
        do throws(ClientError) {
            try await client.increment(key)
            state.withLock { state in
                state.counters[key, default: Counter()].acknowledged += 1
                state.acknowledged += 1
            }
        } catch {
            guard error.error.outcome == .unknown else { return }
            state.withLock { $0.counters[key, default: Counter()].possible += 1 }
        }
    }

    /// Reads everything back. What is read is known from then on: it cannot go back any more.
    func losses(through client: Client) async throws(ClientError) -> [Loss] {
        var losses: [Loss] = []
        for (key, known) in state.withLock({ $0.values }).sorted(by: { $0.key < $1.key }) {
            let value = try await client.get(key)?.text
            if !([known.acknowledged] + known.possible).contains(value) {
                let found = value.map { String($0.prefix(20)) } ?? "nothing"
                let expected = known.acknowledged.map { String($0.prefix(20)) } ?? "nothing"
                losses.append(Loss(description: "\(key) is \(found), should be \(expected)"))
            }
            state.withLock { $0.values[key] = Value(acknowledged: value) }
        }
        for (key, known) in state.withLock({ $0.counters }).sorted(by: { $0.key < $1.key }) {
            let value = Int64(try await client.get(key)?.text ?? "0") ?? -1
            if value < known.acknowledged || value > known.acknowledged + known.possible {
                let expected = "\(known.acknowledged) to \(known.acknowledged + known.possible)"
                losses.append(Loss(description: "counter \(key) is \(value), should be \(expected)"))
            }
            state.withLock { $0.counters[key] = Counter(acknowledged: value) }
        }
        return losses
    }
}
