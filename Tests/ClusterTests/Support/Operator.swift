import ClusterProcesses
import RaftCore
import ShardClient
import ShardMap

/// Somebody who runs a cluster with `raftctl`.
struct Operator: Sendable {
    let cluster: ProcessCluster

    /// What comes before the command's own words.
    var seeds: [String] { ["--cluster", cluster.addresses.map(\.description).joined(separator: ",")] }

    /// Gives an order, whatever comes of it.
    func attempt(_ words: String..., timeout: Duration = .seconds(60)) async throws -> Tools.Outcome {
        try await Tools.run(Tools.raftctl, seeds + words, timeout: timeout)
    }

    /// Gives an order that must be carried out; what is printed.
    @discardableResult
    func order(_ words: String..., timeout: Duration = .seconds(60)) async throws -> String {
        try await order(words: words, timeout: timeout)
    }

    /// As ``order(_:timeout:)``.
    @discardableResult
    func order(words: [String], timeout: Duration = .seconds(60)) async throws -> String {
        let outcome = try await Tools.run(Tools.raftctl, seeds + words, timeout: timeout)
        guard outcome.status == 0 else {
            throw Failed("raftctl \(words.joined(separator: " ")) ends with \(outcome.status): \(outcome.output)")
        }
        return outcome.output
    }

    /// Begins an operation without waiting for its end; its number.
    func begin(_ words: String...) async throws -> String {
        let outcome = try await Tools.run(Tools.raftctl, seeds + words + ["--no-wait"])
        let parts = outcome.output.split(separator: " ")
        guard outcome.status == 0, parts.count > 1, parts[0] == "operation" else {
            throw Failed("raftctl \(words.joined(separator: " ")) ends with \(outcome.status): \(outcome.output)")
        }
        return String(parts[1])
    }

    /// The line of `raftctl operation list --all` about one operation; empty if there is none.
    func listed(_ operation: String) async throws -> String {
        let lines = try await order("operation", "list", "--all").split(separator: "\n")
        return lines.first { $0.split(separator: " ").first.map(String.init) == operation }.map(String.init) ?? ""
    }

    /// The group that owns a shard, as the controller has it.
    func group(of shard: UInt64) async throws -> String {
        let words = try await order("shard", "show", "\(shard)").split(separator: "\n").dropFirst().first?
            .split(separator: " ")
        return words.map { $0.count > 1 ? String($0[1]) : "" } ?? ""
    }

    /// The version of the controller's map: what it answers to an order that changes nothing.
    func mapVersion() async throws -> UInt64 {
        let answer = try await order("-o", "json", "node", "resume", cluster.addresses[0].description)
        let parts = answer.split(separator: "\"")
        guard let name = parts.firstIndex(of: "version"), name + 1 < parts.count,
            let version = UInt64(String(parts[name + 1].filter { $0.isASCII && $0.isNumber }))
        else { throw Failed("no version in \(answer)") }
        return version
    }

    /// Returns when no operation goes on.
    func waitForOperations() async throws {
        var last = ""
        do {
            try await Wait.until("every operation has ended", timeout: .seconds(30)) {
                last = try await attempt("operation", "list").output
                return last.split(separator: "\n").count == 1 && last.hasPrefix("ID ")
            }
        } catch {
            throw Failed("\(error):\n\(last)")
        }
    }

    /// Compares the replicas of every group. One that has just been started or moved gets time to catch up.
    func verifyEveryGroup(_ map: ClusterMap) async throws {
        for group in map.groups {
            var last = ""
            do {
                try await Wait.until("the replicas of \(group.id) are equal", timeout: .seconds(30)) {
                    let outcome = try await attempt("group", "verify", group.id)
                    last = outcome.output
                    return outcome.status == 0
                }
            } catch {
                throw Failed("\(error):\n\(last)")
            }
        }
    }
}
