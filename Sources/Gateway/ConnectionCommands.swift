internal import RaftCore

/// The commands about the connection itself: nothing of them reaches the store.
enum ConnectionCommands {
    /// HELLO [version [AUTH user password] [SETNAME name]]. Changes nothing unless all of it is right.
    static func hello(_ arguments: [Bytes], _ client: inout ClientState) throws(Refusal) -> Reply {
        var version = client.version
        if arguments.count > 1 {
            guard let number = arguments[1].strictInteger else {
                throw Refusal("ERR Protocol version is not an integer or out of range")
            }
            guard let wanted = ProtocolVersion(rawValue: number) else {
                throw Refusal("NOPROTO unsupported protocol version")
            }
            version = wanted
        }
        var name = client.name
        var index = 2
        while index < arguments.count {
            if arguments[index].isWord("auth"), index + 2 < arguments.count {
                throw Refusal("ERR HELLO AUTH is not supported: this server has no users and no passwords")
            }
            guard arguments[index].isWord("setname"), index + 1 < arguments.count else {
                throw Refusal("ERR Syntax error in HELLO option '\(arguments[index].quotable(limit: 128))'")
            }
            name = try clientName(arguments[index + 1])
            index += 2
        }
        client.version = version
        client.name = name
        return .map([
            .text("server"), .text("redis"), .text("version"), .text(RedisServer.compatibleVersion), .text("proto"),
            .integer(version.rawValue), .text("id"), .integer(Int64(truncatingIfNeeded: client.id)), .text("mode"),
            .text("standalone"), .text("role"), .text("master"), .text("modules"), .array([]),
        ])
    }

    /// PING [message].
    static func ping(_ arguments: [Bytes]) throws(Refusal) -> Reply {
        guard arguments.count <= 2 else { throw .arity("ping") }
        return arguments.count == 2 ? .bulk(arguments[1]) : .simple("PONG")
    }

    /// SELECT 0: there is one database.
    static func select(_ arguments: [Bytes]) throws(Refusal) -> Reply {
        guard try KeyCommands.integer(arguments[1]) == 0 else { throw Refusal("ERR DB index is out of range") }
        return .ok
    }

    /// RESET: as if just connected.
    static func reset(_ client: inout ClientState) -> Reply {
        client.version = .resp2
        client.name = Bytes()
        return .simple("RESET")
    }

    private static func clientName(_ name: Bytes) throws(Refusal) -> Bytes {
        guard ClientState.isName(name) else {
            throw Refusal("ERR Client names cannot contain spaces, newlines or special characters.")
        }
        return name.compacted
    }
}

// MARK: CLIENT

extension ConnectionCommands {
    /// CLIENT and its subcommands.
    static func client(_ arguments: [Bytes], _ client: inout ClientState, now: Instant) throws(Refusal) -> Reply {
        switch try Subcommand.name(arguments, of: "client", arities: clientArities) {
        case "setname":
            client.name = try clientName(arguments[2])
            return .ok
        case "getname": return client.name.isEmpty ? .null : .bulk(client.name)
        case "id": return .integer(Int64(truncatingIfNeeded: client.id))
        case "info": return .verbatim(client.line(now: now))
        case "list": return .verbatim(try isListed(arguments, client) ? client.line(now: now) : "")
        case "setinfo": return try setInfo(arguments, &client)
        case "no-evict", "no-touch":
            guard arguments[2].isWord("on") || arguments[2].isWord("off") else { throw .syntax }
            return .ok
        case "reply":
            if arguments[2].isWord("on") { return .ok }
            guard arguments[2].isWord("off") || arguments[2].isWord("skip") else { throw .syntax }
            throw Refusal("ERR CLIENT REPLY OFF and SKIP are not supported: every command is answered")
        case "tracking":
            if arguments[2].isWord("off") { return .ok }
            throw Refusal("ERR CLIENT TRACKING is not supported: other nodes' writes would be missed")
        default: throw .unknownSubcommand(arguments[1], of: "client")
        }
    }

    private static let clientArities = [
        "setname": 3, "getname": 2, "id": 2, "info": 2, "list": -2, "setinfo": 4, "no-evict": 3, "no-touch": 3,
        "reply": 3, "tracking": -3,
    ]

    /// CLIENT LIST [TYPE type] [ID id …]: it knows of no connection but the one that asks.
    private static func isListed(_ arguments: [Bytes], _ client: ClientState) throws(Refusal) -> Bool {
        if arguments.count == 2 { return true }
        if arguments.count == 4, arguments[2].isWord("type") { return arguments[3].isWord("normal") }
        guard arguments.count > 3, arguments[2].isWord("id") else { throw .syntax }
        var isListed = false
        for argument in arguments.dropFirst(3) {
            guard let id = argument.strictInteger, id > 0 else { throw Refusal("ERR Invalid client ID") }
            if UInt64(id) == client.id { isListed = true }
        }
        return isListed
    }

    private static func setInfo(_ arguments: [Bytes], _ client: inout ClientState) throws(Refusal) -> Reply {
        let option = arguments[2].shortName
        guard option == "lib-name" || option == "lib-ver" else {
            throw Refusal("ERR Unrecognized option '\(arguments[2].quotable(limit: 128))'")
        }
        guard ClientState.isName(arguments[3]) else {
            throw Refusal("ERR \(option ?? "") cannot contain spaces, newlines or special characters.")
        }
        if option == "lib-name" {
            client.libraryName = arguments[3].compacted
        } else {
            client.libraryVersion = arguments[3].compacted
        }
        return .ok
    }
}

/// The second word of CLIENT, COMMAND and CONFIG.
enum Subcommand {
    /// The subcommand's name in lower case, once `arities` (counted like a command's) admit the arguments.
    static func name(
        _ arguments: [Bytes], of command: String, arities: [String: Int]
    ) throws(Refusal) -> String {
        guard let name = arguments[1].shortName, let arity = arities[name] else {
            throw .unknownSubcommand(arguments[1], of: command)
        }
        let admits = arity < 0 ? arguments.count >= -arity : arguments.count == arity
        guard admits else { throw .arity("\(command)|\(name)") }
        return name
    }
}
