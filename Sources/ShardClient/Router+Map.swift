public import RaftCore
public import ShardMap

// Keeping the map fresh: asked for only when somebody needs it.

extension Router {
    /// Somebody who waits for a map.
    struct MapCall {
        let deadline: Instant
        let completion: (Result<ClusterMap, NamedErrorThrown>) -> Void
    }

    /// Takes `map` if it is newer than the one in use.
    public func updateMap(_ map: ClusterMap) {
        guard isNewer(map) else { return }
        adopt(map)
        lookedAtMap()
        wake()
    }

    /// Asks a node for its map; the completion gets the newest map known then.
    public func fetchMap(
        deadline: Instant, completion: @escaping (Result<ClusterMap, NamedErrorThrown>) -> Void
    ) {
        mapCalls.append(MapCall(deadline: deadline, completion: completion))
        refresh.isWanted = true
        wake()
    }

    /// The map in use, once there is one with shards.
    func withMap(deadline: Instant, completion: @escaping (Result<ClusterMap, NamedErrorThrown>) -> Void) {
        if let map, !map.shards.isEmpty { return completion(.success(map)) }
        fetchMap(deadline: deadline, completion: completion)
    }

    func askForMap() {
        guard refresh.isDue(now: now) else { return }
        if map == nil, let findings = refresh.findsNoCluster { giveUpOnCluster(findings) }
        guard isMapAwaited else {
            refresh.isWanted = false
            refresh.forgetAnswers()
            return awaitingMap.removeAll()
        }
        attempts += 1
        let attempt = attempts
        let node = refresh.ask(attempt, next: now + settings.mapPatience)
        transport.fetchMap(at: node, deadline: now + settings.attemptTimeout) { [weak self] answer in
            self?.arrived(.map(answer, node: node, attempt: attempt))
        }
    }

    func take(_ answer: MapAnswer, of node: NodeAddress, attempt: UInt64) {
        refresh.note(answer, of: node)
        let fetched: ClusterMap? = if case .map(let map) = answer { map } else { nil }
        guard refresh.counts(attempt, hasMap: fetched != nil) else { return }
        let isNew = fetched.map(isNewer) ?? false
        refresh.answered(
            hasMap: fetched != nil, new: isNew, now: now, pause: settings.retryDelay, longest: settings.maxRetryDelay)
        guard let fetched, fetched.clusterID == map?.clusterID || map == nil else { return }
        if isNew { adopt(fetched) }
        lookedAtMap()
    }

    /// Whether anybody who wanted the map is still there.
    private var isMapAwaited: Bool {
        !unrouted.isEmpty || !mapCalls.isEmpty
            || awaitingMap.contains { $0.requests.contains { $0.state == .awaitingMap } }
    }

    private func isNewer(_ other: ClusterMap) -> Bool {
        guard let map else { return true }
        return other.clusterID == map.clusterID && other.version > map.version
    }

    /// What waited for a look at the map goes on: even an old map may be right, and its node late.
    private func lookedAtMap() {
        refresh.isWanted = !unrouted.isEmpty
        let channels = awaitingMap
        awaitingMap.removeAll(keepingCapacity: true)
        for channel in channels {
            for request in channel.requests where request.state == .awaitingMap { request.wait(.idle) }
            touch(channel)
        }
        guard let map else { return }
        let calls = mapCalls
        mapCalls.removeAll()
        for call in calls { call.completion(.success(map)) }
    }
}
