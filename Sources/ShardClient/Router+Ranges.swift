public import RaftCore
public import ShardMap

// Scans walk from shard to shard; counts ask all shards at once.

extension Router {
    /// Pairs asked for in one request of a scan.
    static let maxPairsPerRequest = 1024

    /// As ``KeyValueRouter/scan(from:limit:deadline:completion:)``.
    public func scan(
        from start: Bytes, limit: Int, deadline: Instant,
        completion: @escaping (Result<(pairs: [KeyResult.Pair], next: Bytes?), NamedErrorThrown>) -> Void
    ) {
        scan(from: start, limit: limit, found: [], deadline: deadline, completion: completion)
    }

    private func scan(
        from start: Bytes, limit: Int, found: [KeyResult.Pair], deadline: Instant,
        completion: @escaping (Result<(pairs: [KeyResult.Pair], next: Bytes?), NamedErrorThrown>) -> Void
    ) {
        guard found.count < limit else { return completion(.success((found, start))) }
        let step = min(limit - found.count, Router.maxPairsPerRequest)
        let operation = KeyOperation(.scan, key: start, number: Int64(step))
        submitOverRanges([operation], deadline: deadline) { [weak self] results, ranges in
            let result = results[0]
            if let error = result.error { return completion(.failure(NamedErrorThrown(error, result.message))) }
            let pairs = found + result.pairs
            guard let next = Router.keyAfter(result, in: ranges[0]) else { return completion(.success((pairs, nil))) }
            guard start < next, let self else {
                return completion(.failure(NamedErrorThrown(.internalError, "a scan does not advance")))
            }
            self.scan(from: next, limit: limit, found: pairs, deadline: deadline, completion: completion)
        }
    }

    /// Where a scan goes on after `result`, found in the shard of `range`; nil behind the last key there can be.
    private static func keyAfter(_ result: KeyResult, in range: KeyRange) -> Bytes? {
        if result.integer == 1 { return result.pairs.last.map { successor(of: $0.key) } ?? range.start }
        return range.end.isEmpty ? nil : range.end
    }

    /// The lowest key above `key` that a key may be; nil if there is none.
    static func successor(of key: Bytes) -> Bytes? {
        var bytes = key.array
        if bytes.count < KeyLimits.keyBytes { return Bytes(bytes + [0]) }
        while bytes.last == 0xff { bytes.removeLast() }
        guard let last = bytes.popLast() else { return nil }
        return Bytes(bytes + [last + 1])
    }

    /// As ``KeyValueRouter/count(deadline:completion:)``. Should shards change while they are asked, all are asked
    /// again, so that no key counts twice.
    public func count(deadline: Instant, completion: @escaping (Result<Int64, NamedErrorThrown>) -> Void) {
        withMap(deadline: deadline) { [weak self] known in
            switch known {
            case .failure(let error): completion(.failure(error))
            case .success(let map): self?.count(over: map, deadline: deadline, completion: completion)
            }
        }
    }

    private func count(
        over map: ClusterMap, deadline: Instant, completion: @escaping (Result<Int64, NamedErrorThrown>) -> Void
    ) {
        let operations = map.shards.map { KeyOperation(.count, key: $0.range.start, value: $0.range.end) }
        submitOverRanges(operations, deadline: deadline) { [weak self] results, ranges in
            var sum: Int64 = 0
            for result in results {
                if let error = result.error { return completion(.failure(NamedErrorThrown(error, result.message))) }
                sum += result.integer ?? 0
            }
            if ranges == map.shards.map(\.range) { return completion(.success(sum)) }
            self?.count(deadline: deadline, completion: completion)
        }
    }

    /// Executes operations over ranges, each in the shard that owns its key; with the results come the shards' ranges.
    private func submitOverRanges(
        _ operations: [KeyOperation], deadline: Instant, completion: @escaping ([KeyResult], [KeyRange]) -> Void
    ) {
        var call: Call?
        let made = Call(operations, deadline: deadline, isOverRanges: true) { results in
            let ranges = call?.ranges ?? []
            call = nil
            completion(results, ranges)
        }
        call = made
        submit(made)
    }
}
