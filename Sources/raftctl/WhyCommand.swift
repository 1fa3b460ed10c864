import RaftCore
import ShardClient
import ShardMap

extension Command {
    static let why = Command(
        path: ["why"], arguments: "[key|shard|group] NAME", positionals: 1...2, options: [.escaped],
        summary: "walk from a key, a shard or a group down to its disks, and say what is wrong",
        details: """
            Without the word before it, NAME is a group if there is one of that name, else a shard if it is the number of
            one, else a key.

            Each link of the chain is OK, BUSY (nothing is wrong, something goes on), WRONG, with the cause and what to do
            about it, or ? where nobody could be asked: key, shard, operations under way, group, replicas, leader, log,
            disks and network. Nodes that are down do not keep it from saying what the others know.

            The exit status is 0 if all is well, and 1 if something was found.
            """,
        run: { invocation throws(Failure) in
            let cluster = try Cluster(invocation)
            let earlier = try await cluster.state(needsGroups: true)
            let subject = try invocation.subject(earlier)
            let facts = try await cluster.facts(about: subject, since: earlier)
            let report = WhyReport(subject, facts)
            try Output.print(invocation.format == .json ? report.json.text : report.text)
            guard report.isWell else { throw .found }
        })
}

extension Failure {
    /// What was found has been printed.
    fileprivate static let found = Failure(status: .failed, message: "")
}

extension Invocation {
    /// What is asked about.
    fileprivate func subject(_ state: ClusterState) throws(Failure) -> WhyReport.Subject {
        let name = positionals[positionals.count - 1]
        switch positionals.count > 1 ? positionals[0] : "" {
        case "key": return .key(try key(1))
        case "shard": return .shard(try identifier(1))
        case "group": return .group(name)
        case "": break
        default: throw .usage("'\(positionals[0])' is none of key, shard and group")
        }
        if state.groups.contains(where: { $0.id == name }) { return .group(name) }
        if let number = UInt64(name), state.map?.shards.contains(where: { $0.id == number }) ?? (number > 0) {
            return .shard(number)
        }
        return .key(try key(0))
    }
}

extension Cluster {
    /// Between the looks that tell what stands still from what gets on.
    private static let lookMilliseconds = 700

    fileprivate func facts(
        about subject: WhyReport.Subject, since earlier: ClusterState
    ) async throws(Failure) -> WhyFacts {
        await pause(milliseconds: Cluster.lookMilliseconds)
        let state = try await state(needsGroups: true)
        var facts = WhyFacts(state: state, earlier: earlier)
        for node in state.nodes where node.status == nil {
            if await isHanging(node.address) { facts.hanging.insert(node.address) }
        }
        let isControllerLed = state.groups.contains { $0.id == ClusterMap.controllerGroup && $0.leader != nil }
        // without a leader it would be looked for in vain
        if isControllerLed { facts.operations = try? await operations() }
        if case .key(let key) = subject, let shard = state.map?.shard(owning: key) {
            let isLed = state.groups.contains { $0.id == shard.group && $0.isServed }
            if isLed { facts.read = await tryToRead(key) }
        }
        return facts
    }

    /// Whether a node that gives no answer is there nevertheless, or may be: a process that is gone refuses connections.
    private func isHanging(_ node: NodeAddress) async -> Bool {
        do throws(ClientError) {
            _ = try await client.call(
                node, service: Cluster.service, method: "status", body: Bytes(), timeout: .milliseconds(1000))
            return false
        } catch {
            return error.error != .unreachable
        }
    }

    private func tryToRead(_ key: Bytes) async -> WhyFacts.ReadTrial {
        let start = ContinuousClock.now
        do throws(ClientError) {
            _ = try await client.get(key)
            return .done(milliseconds: Int(start.duration(to: .now).inSeconds * 1000))
        } catch {
            return .failed(error.message)
        }
    }
}
