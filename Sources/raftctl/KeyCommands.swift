import Glibc
import RaftCore
import ShardClient
import ShardMap

// Commands about single keys.

extension CommandOption {
    static let escaped = CommandOption(
        "escaped", nil, "keys and values of this command line have escapes, such as \\xff")
}

extension Invocation {
    /// The positional argument as bytes.
    func bytes(_ position: Int) throws(Failure) -> Bytes { try bytes(positionals[position]) }

    /// The positional argument as a key.
    func key(_ position: Int) throws(Failure) -> Bytes {
        let key = try bytes(position)
        guard !key.isEmpty, key.count <= KeyLimits.keyBytes else { throw .failed(NamedError.keyTooLarge.sentence) }
        return key
    }

    /// A word of the command line as bytes, its escapes read if `--escaped` is set.
    func bytes(_ text: String) throws(Failure) -> Bytes {
        guard isSet("escaped") else { return Bytes(text) }
        guard let bytes = Escapes.bytes(text) else {
            throw .usage("'\(text)' has a backslash that begins no escape; write it as \\\\")
        }
        return bytes
    }
}

extension Cluster {
    /// One operation on one key.
    func perform(_ operation: KeyOperation, _ action: String) async throws(Failure) -> KeyResult {
        // what nobody can answer is found out at once, not at the deadline
        _ = try await map()
        let results: [KeyResult]
        do throws(ClientError) {
            results = try await client.execute([operation])
        } catch {
            throw Failure(error, while: action)
        }
        if let error = results[0].error { throw Failure(error, results[0].message, while: action) }
        return results[0]
    }
}

extension Command {
    static let get = Command(
        path: ["kv", "get"], arguments: "KEY", positionals: 1...1,
        options: [CommandOption("raw", nil, "no line's end behind the value, even on a terminal"), .escaped],
        summary: "the value of a key",
        details: """
            Prints the value's exact bytes; on a terminal a line's end follows. Fails with "key not found" if there
            is no such key.
            """,
        run: { invocation throws(Failure) in
            let key = try invocation.key(0)
            let result = try await Cluster(invocation).perform(KeyOperation(.get, key: key), "get")
            guard let value = result.value else { throw .failed("key not found") }
            if invocation.format == .json {
                return try Output.print(JSON.object(JSON.members("key", key) + JSON.members("value", value)).text)
            }
            var output = Output()
            try output.write(value.array)
            if Output.isTerminal(STDOUT_FILENO), !invocation.isSet("raw") { try output.write("\n") }
            try output.flush()
        })

    static let put = Command(
        path: ["kv", "put"], arguments: "KEY VALUE", positionals: 2...2, options: [.escaped],
        summary: "store a value under a key",
        run: { invocation throws(Failure) in
            let key = try invocation.key(0)
            let value = try invocation.bytes(1)
            _ = try await Cluster(invocation).perform(KeyOperation(.set, key: key, value: value), "put")
            try Output.print(invocation.format == .json ? JSON.object([("stored", .bool(true))]).text : "stored")
        })

    static let delete = Command(
        path: ["kv", "delete"], arguments: "KEY", positionals: 1...1, options: [.escaped],
        summary: "remove a key; no failure if there is none",
        run: { invocation throws(Failure) in
            let key = try invocation.key(0)
            let result = try await Cluster(invocation).perform(KeyOperation(.delete, key: key), "delete")
            let existed = result.integer == 1
            let json = JSON.object([("deleted", .bool(existed))])
            try Output.print(invocation.format == .json ? json.text : existed ? "deleted" : "there was no such key")
        })

    static let scan = Command(
        path: ["kv", "scan"],
        options: [
            CommandOption("from", "KEY", "first key (default: the first there is)"),
            CommandOption("to", "KEY", "first key behind the last"),
            CommandOption("prefix", "TEXT", "only keys that begin so; instead of --from and --to"),
            CommandOption("limit", "N", "at most so many"),
            .escaped,
        ],
        summary: "keys and values in the order of keys",
        details: """
            Prints a line for each key: key, tab, value, with the escapes of `raftctl help kv import`. Every shard's
            part is read linearizably; the whole is not a snapshot.
            """,
        run: { invocation throws(Failure) in
            let limit = try invocation.integer("limit", in: 0...Int.max) ?? .max
            let walk = Walk(cluster: try Cluster(invocation), range: try invocation.range(), limit: limit)
            var output = Output()
            let isJSON = invocation.format == .json
            var isFirst = true
            if isJSON { try output.write("{\"pairs\":[") }
            try await walk.run { page throws(Failure) in
                for pair in page {
                    var line: [UInt8] = []
                    if isJSON {
                        if !isFirst { line.append(UInt8(ascii: ",")) }
                        JSON.object(JSON.members("key", pair.key) + JSON.members("value", pair.value)).append(to: &line)
                    } else {
                        RecordFormat.tsv.append(Record(key: pair.key, value: pair.value), to: &line)
                    }
                    isFirst = false
                    try output.write(line)
                }
                try output.flush()
            }
            if isJSON { try output.write("]}\n") }
            try output.flush()
        })
}

extension Invocation {
    /// The keys that `--from` and `--to`, or `--prefix`, name.
    fileprivate func range() throws(Failure) -> KeyRange {
        if let prefix = values["prefix"] {
            guard values["from"] == nil, values["to"] == nil else {
                throw .usage("--prefix stands instead of --from and --to")
            }
            let start = try bytes(prefix)
            return KeyRange(start: start, end: start.endOfPrefix)
        }
        return KeyRange(start: try bytes(values["from"] ?? ""), end: try bytes(values["to"] ?? ""))
    }
}

extension Bytes {
    /// The first key behind all that begin with these; empty: there is none.
    var endOfPrefix: Bytes {
        var bytes = array
        while bytes.last == 0xff { bytes.removeLast() }
        guard let last = bytes.popLast() else { return Bytes() }
        return Bytes(bytes + [last + 1])
    }
}

/// Goes through the pairs of a range, a page at a time.
struct Walk {
    let cluster: Cluster
    let range: KeyRange
    let limit: Int

    private static let pagePairs = 256

    /// Calls `body` with each page.
    func run(_ body: ([KeyResult.Pair]) throws(Failure) -> Void) async throws(Failure) {
        _ = try await cluster.map()
        var left = limit
        var next: Bytes? = range.start
        while let start = next, left > 0, range.end.isEmpty || start < range.end {
            let page: (pairs: [KeyResult.Pair], next: Bytes?)
            do throws(ClientError) {
                page = try await cluster.client.scan(from: start, limit: min(left, Walk.pagePairs))
            } catch {
                throw Failure(error, while: "scan")
            }
            let pairs = page.pairs.prefix { range.end.isEmpty || $0.key < range.end }
            try body(Array(pairs))
            left -= pairs.count
            next = pairs.count < page.pairs.count ? nil : page.next
        }
    }
}
