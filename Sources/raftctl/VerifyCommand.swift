import CMessages
import RaftCore
import ShardMap
import WireMessages

// Whether the replicas of a group hold the same, key by key.

extension Command {
    static let groupVerify = Command(
        path: ["group", "verify"], arguments: "GROUP", positionals: 1...1,
        summary: "compare the states of a group's replicas at one entry, key by key",
        details: """
            Reads everything that each replica holds, while the group serves on. RESULT is equal, differs or unknown;
            members that run another program, such as a braft, are not checked.
            WHERE names the first key or range of keys that differs, HASH what the replica has there and LEADER what
            the leader has, with the number of keys. A replica that differs from a majority is fenced: it serves no
            more. Where no majority agrees, nobody is.

            The exit status is 0 only if all replicas that are checked are equal.
            """,
        run: { invocation throws(Failure) in
            let group = invocation.positionals[0]
            let result = try await Cluster(invocation).verify(group)
            try Output.print(invocation.format == .json ? result.json.text : result.table)
            if let failure = result.failure { throw failure }
        })
}

/// What a group's leader says of its replicas' states.
struct GroupVerification: Equatable, Sendable {
    /// A replica, compared with the leader's or, where that is wrong, a majority's.
    struct Replica: Equatable, Sendable {
        var peer: String
        /// equal, differs, unknown or not checked.
        var result: String
        /// Why it is unknown or not checked.
        var problem: String?
        var isFenced = false
        var difference: Difference?
    }

    /// The first place at which a replica differs.
    struct Difference: Equatable, Sendable {
        var start: Bytes
        /// Empty: no bound.
        var end: Bytes
        var place: String
        var leaderHash: UInt64
        var hash: UInt64
        var leaderKeys: UInt64
        var keys: UInt64
    }

    var group: String
    /// The entry behind which the states were compared.
    var index: Int64
    /// Whether a majority agrees.
    var isDecided: Bool
    var replicas: [Replica]

    /// Reads a reply without error; nil if it is malformed.
    init?(_ group: String, _ reply: Flotilla__VerifyGroupReply) {
        self.group = group
        index = reply.index
        isDecided = reply.decided != 0
        replicas = []
        for position in 0..<reply.n_replicas {
            guard let verdict = reply.replicas[position]?.pointee else { return nil }
            var replica = Replica(
                peer: String(field: verdict.peer), result: String(field: verdict.result),
                problem: verdict.problem.map { String(cString: $0) }, isFenced: verdict.fenced != 0)
            if verdict.has_hash != 0 {
                replica.difference = Difference(
                    start: Bytes(verdict.start), end: Bytes(verdict.end), place: String(field: verdict.place),
                    leaderHash: verdict.leader_hash, hash: verdict.hash, leaderKeys: verdict.leader_keys,
                    keys: verdict.keys)
            }
            replicas.append(replica)
        }
    }

    /// Why the command fails; nil if all that are checked are equal.
    var failure: Failure? {
        let different = replicas.filter { $0.result == "differs" }.map(\.peer)
        let unknown = replicas.filter { !["differs", "equal", "not checked"].contains($0.result) }.map(\.peer)
        var sentences: [String] = []
        if !different.isEmpty {
            sentences.append("the state of \(different.joined(separator: ", ")) differs")
            if !isDecided { sentences.append("no majority agrees, so nobody is fenced") }
        }
        if !unknown.isEmpty { sentences.append("nothing is known of \(unknown.joined(separator: ", "))") }
        return sentences.isEmpty ? nil : .failed("\(group): " + sentences.joined(separator: "; "))
    }

    var table: String {
        var table = Table(["PEER", "RESULT", "WHERE", "HASH", "LEADER", "KEYS", "FENCED"], numeric: [5])
        for replica in replicas {
            let difference = replica.difference
            table.add([
                replica.peer, replica.result, difference?.place ?? replica.problem ?? "",
                difference.map { JSON.hexadecimal($0.hash) } ?? "",
                difference.map { JSON.hexadecimal($0.leaderHash) } ?? "",
                difference.map { "\($0.keys)/\($0.leaderKeys)" } ?? "", replica.isFenced ? "yes" : "",
            ])
        }
        return "\(group) at entry \(index)\n" + table.text
    }

    var json: JSON {
        .object([
            ("group", .string(group)), ("index", .integer(index)), ("decided", .bool(isDecided)),
            ("equal", .bool(failure == nil)),
            (
                "replicas",
                .array(
                    replicas.map { replica in
                        var members: [(String, JSON)] = [
                            ("peer", .string(replica.peer)), ("result", .string(replica.result)),
                            ("problem", .optional(replica.problem)), ("fenced", .bool(replica.isFenced)),
                        ]
                        if let difference = replica.difference {
                            members.append(("where", .string(difference.place)))
                            members += JSON.members("start", difference.start)
                            members += JSON.members("end", difference.end)
                            members += [
                                ("hash", .identifier(difference.hash)),
                                ("leader_hash", .identifier(difference.leaderHash)),
                                ("keys", .unsigned(difference.keys)), ("leader_keys", .unsigned(difference.leaderKeys)),
                            ]
                        }
                        return .object(members)
                    })
            ),
        ])
    }
}

extension Cluster {
    /// Each replica reads all it has.
    private static let verifyPatience = Interval.milliseconds(900_000)

    /// Has the leader of `group` compare its replicas.
    func verify(_ group: String) async throws(Failure) -> GroupVerification {
        let body = Arena().scope { arena in
            let request = arena.make(flotilla__verify_group_request__init)
            request.pointee.group = arena.string(group)
            return arena.pack(request)
        }
        var question = LeaderQuestion(
            group: group, method: "verify_group", body: body, action: "verifying \(group)",
            patience: Cluster.verifyPatience)
        question.insists = true
        return try await ask(question) { (answer, arena) in
            guard let reply = arena.unpack(flotilla__verify_group_reply__init, answer)?.pointee else { return nil }
            if let refusal = LeaderRefusal(reply.error, reply.message) { return .refused(refusal) }
            return GroupVerification(group, reply).map { .answer($0) }
        }
    }
}
