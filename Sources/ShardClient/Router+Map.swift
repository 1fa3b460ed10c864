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
        answerMapCalls()
        wake()
    }

    /// Asks a node for its map; the completion gets the newest map known then.
    public func fetchMap(
        deadline: Instant, completion: @escaping (Result<ClusterMap, NamedErrorThrown>) -> Void
    ) {
        mapCalls.append(MapCall(deadline: deadline, completion: completion))
        refresh.want()
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
            return forgetWatchers()
        }
        // whoever wants a look gets one; who waits for a newer map hears when there is one
        let isWatch = map != nil && mapCalls.isEmpty
        let patience = isWatch ? settings.mapWatch : .milliseconds(0)
        attempts += 1
        let question = refresh.ask(attempts, at: now, patience: patience, next: now + settings.mapPatience)
        transport.fetchMap(
            at: question.node, newerThan: map?.version ?? 0, patience: patience,
            deadline: now + patience + settings.attemptTimeout
        ) { [weak self] answer in self?.arrived(.map(answer, question)) }
    }

    func take(_ answer: MapAnswer, to question: MapRefresh.Question) {
        refresh.note(answer, of: question.node)
        var (isLook, isNew) = (false, false)
        switch answer {
        case .map(let fetched):
            isNew = isNewer(fetched)
            isLook = isNew || fetched.clusterID == map?.clusterID
            // a newer one is right whenever it comes
            if isNew { adopt(fetched) }
        case .unchanged: isLook = map != nil
        case .noCluster, .noMap, .silence: break
        }
        if isNew || refresh.counts(question, hasMap: isLook) {
            refresh.answered(
                question, hasMap: isLook, new: isNew, now: now, pause: settings.retryDelay,
                longest: settings.maxRetryDelay)
            if isLook { answerMapCalls() }
        }
    }

    /// Whether anybody who wanted the map is still there.
    private var isMapAwaited: Bool {
        !unrouted.isEmpty || !mapCalls.isEmpty
            || watching.contains { $0.requests.contains { $0.state == .watchingMap } }
    }

    private func isNewer(_ other: ClusterMap) -> Bool {
        guard let map else { return true }
        return other.clusterID == map.clusterID && other.version > map.version
    }

    /// Nobody has to hear of the next map.
    func forgetWatchers() {
        for channel in watching { channel.isWatchingMap = false }
        watching.removeAll(keepingCapacity: true)
    }

    /// A node has been asked for the map: who only wanted that has the newest there is.
    private func answerMapCalls() {
        guard let map else { return }
        let calls = mapCalls
        mapCalls.removeAll()
        refresh.isWanted = isMapAwaited
        for call in calls { call.completion(.success(map)) }
    }
}
