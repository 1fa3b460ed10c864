import RaftCore
import ShardClient
import Synchronization

/// Writes at a steady pace whatever becomes of the writes: who waits for an answer notices a standstill once, where all
/// the writes that are due meanwhile notice it.
final class SteadyWriter: Sendable {
    private struct Sample {
        var due: ContinuousClock.Instant
        var ended: ContinuousClock.Instant
        var isAcknowledged: Bool
    }

    /// Keys that are written in turn.
    private static let keys = 256

    private let client: Client
    private let place: String
    private let interval: Duration
    private let values: NoiseValues
    private let samples = Mutex<[Sample]>([])
    private let isOver = Atomic(false)

    init(through client: Client, place: String, writesPerSecond: Int, valueBytes: Int) {
        self.client = client
        self.place = place
        interval = .seconds(1) / writesPerSecond
        values = NoiseValues(bytes: valueBytes)
    }

    /// Goes on until it is stopped, and returns when each write is answered.
    func run() async {
        await withDiscardingTaskGroup { group in
            var due = ContinuousClock.now
            var number = 0
            while !isOver.load(ordering: .acquiring) {
                do { try await Task.sleep(until: due, tolerance: .zero) } catch { return }
                let (moment, turn) = (due, number)
                group.addTask { await self.write(turn, due: moment) }
                number += 1
                due += interval
            }
        }
    }

    func stop() { isOver.store(true, ordering: .releasing) }

    private func write(_ number: Int, due: ContinuousClock.Instant) async {
        let key = SteadyWriter.key(place, number % SteadyWriter.keys)
        let isAcknowledged = (try? await client.put(key, values[number])) != nil
        let sample = Sample(due: due, ended: .now, isAcknowledged: isAcknowledged)
        samples.withLock { $0.append(sample) }
    }

    /// What was due at `start` or later: apart from the moves, and while one of `windows` was open.
    func writes(
        to shard: String, since start: ContinuousClock.Instant, moving windows: [Range<ContinuousClock.Instant>]
    ) -> [MoveResult.Writes] {
        var writes = [false, true].map { MoveResult.Writes(shard: shard, isMoving: $0) }
        for sample in samples.withLock({ $0 }) where sample.due >= start {
            let isMoving = windows.contains { $0.overlaps(sample.due..<sample.ended) }
            if sample.isAcknowledged {
                let (seconds, attoseconds) = sample.due.duration(to: sample.ended).components
                writes[isMoving ? 1 : 0].latencies.append(Double(seconds) + Double(attoseconds) * 1e-18)
            } else {
                writes[isMoving ? 1 : 0].failed += 1
            }
        }
        return writes
    }

    /// The key with a number.
    static func key(_ place: String, _ number: Int) -> Bytes { Bytes("\(place)\(number)") }
}
