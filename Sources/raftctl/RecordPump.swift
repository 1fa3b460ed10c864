import RaftCore
import ShardClient
import ShardMap

/// Pumps a file's records through the store: reads batches, keeps a bounded number of them in flight, repeats what may
/// be repeated, and adds up what came of it.
///
/// Two batches with a key in common are never in flight together, so the last of several lines of one key wins. Every
/// operation must be one that may be repeated (a get, or a set without condition).
struct RecordPump: Sendable {
    /// What came of all records.
    struct Totals: Equatable, Sendable {
        /// Done, and if results are compared, as expected.
        var done = 0
        var missing = 0
        var different = 0
        /// Why not everything was pumped.
        var failure: Failure?
    }

    /// How a result compares with its record.
    enum Judgement: Sendable { case asExpected, missing, different }

    let cluster: Cluster
    let source: RecordSource
    let progress: Progress
    /// Batches in flight.
    let concurrency: Int
    /// How long a batch is repeated while the cluster cannot serve it.
    let patience: Duration
    let operation: @Sendable (Record) -> KeyOperation
    let judge: @Sendable (Record, KeyResult) -> Judgement
    /// What it is called in failures.
    let action: String

    private struct Outcome: Sendable {
        var batch: Batch
        var totals: Totals
    }

    /// Pumps until the file's end or the first failure; then waits for what is in flight.
    func run() async -> Totals {
        await progress.show {
            await withTaskGroup(of: Outcome.self) { tasks in
                var totals = Totals()
                var running = 0
                var keys: Set<Bytes> = []
                func collect() async {
                    guard let outcome = await tasks.next() else { return }
                    running -= 1
                    for record in outcome.batch.records { keys.remove(record.key) }
                    totals.add(outcome.totals)
                }
                while totals.failure == nil, let batch = await next(&totals) {
                    while running >= concurrency || batch.records.contains(where: { keys.contains($0.key) }) {
                        await collect()
                    }
                    for record in batch.records { keys.insert(record.key) }
                    running += 1
                    tasks.addTask { await pump(batch) }
                }
                while running > 0 { await collect() }
                return totals
            }
        }
    }

    private func next(_ totals: inout Totals) async -> Batch? {
        do throws(Failure) {
            return try await source.nextBatch()
        } catch {
            totals.failure = error
            return nil
        }
    }

    private func pump(_ batch: Batch) async -> Outcome {
        let start = ContinuousClock.now
        var totals = Totals()
        var waiting = batch.records
        while !waiting.isEmpty {
            let results: [KeyResult]
            do throws(ClientError) {
                results = try await cluster.client.execute(waiting.map(operation))
            } catch {
                totals.failure = Failure(error, while: action)
                break
            }
            var again: [Record] = []
            var reason: Failure?
            for (record, result) in zip(waiting, results) {
                guard let error = result.error else {
                    totals.add(judge(record, result), record.key)
                    continue
                }
                again.append(record)
                let failure = Failure(error, result.message, while: "\(action) \(Escapes.text(record.key))")
                if !error.mayPass { totals.failure = totals.failure ?? failure }
                reason = failure
            }
            waiting = again
            guard totals.failure == nil, let reason else { break }
            guard start.duration(to: .now) < patience else {
                totals.failure = reason
                break
            }
            await pause(milliseconds: 100)
        }
        let done = batch.records.count - waiting.count
        let isWhole = waiting.isEmpty
        progress.add(
            records: done, payloadBytes: isWhole ? batch.payloadBytes : 0, fileBytes: isWhole ? batch.fileBytes : 0)
        return Outcome(batch: batch, totals: totals)
    }
}

extension RecordPump.Totals {
    fileprivate mutating func add(_ other: RecordPump.Totals) {
        done += other.done
        missing += other.missing
        different += other.different
        failure = failure ?? other.failure
    }

    fileprivate mutating func add(_ judgement: RecordPump.Judgement, _ key: Bytes) {
        switch judgement {
        case .asExpected: done += 1
        case .missing:
            missing += 1
            Output.complain("missing: \(Escapes.text(key))")
        case .different:
            different += 1
            Output.complain("different: \(Escapes.text(key))")
        }
    }
}

extension NamedError {
    /// Whether the same operation may succeed a little later.
    fileprivate var mayPass: Bool {
        switch self {
        case .notLeader, .wrongShard, .sessionExpired, .windowExceeded, .busy, .deadlineExceeded, .unreachable,
            .outcomeUnknown, .stopping, .noSuchGroup, .noLeader, .notServed, .sequenceTooOld, .shardFrozen:
            true
        case .sequenceReused, .keyTooLarge, .valueTooLarge, .notAnInteger, .overflow, .badRequest, .diskFull, .damaged,
            .notInitialized, .wrongIdentity, .refused, .unknownFormat, .internalError, .staleOperation, .conflict,
            .noSuchShard, .noSuchOperation, .noSuchNode, .levelTooLow, .programTooOld:
            false
        }
    }
}
