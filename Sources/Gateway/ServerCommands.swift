internal import RaftCore

/// The commands by which clients and tools ask what kind of server this is.
enum ServerCommands {
    /// A section of INFO.
    typealias Section = (section: String, fields: [(String, String)])

    /// INFO [section …]: the sections asked for, each once, in the server's order.
    static func info(_ arguments: [Bytes], _ sections: [Section]) -> Reply {
        let everything = ["all", "default", "everything"]
        let wanted = arguments.dropFirst()
        let isWanted = { (section: Section) in
            wanted.isEmpty
                || wanted.contains { word in
                    word.isWord(section.section.lowercased()) || everything.contains { word.isWord($0) }
                }
        }
        let texts = sections.filter(isWanted).map { section in
            "# \(section.section)\r\n" + section.fields.map { "\($0.0):\($0.1)\r\n" }.joined()
        }
        return .verbatim(texts.joined(separator: "\r\n"))
    }

    /// TIME: seconds and microseconds.
    static func time(_ milliseconds: Int64) -> Reply {
        .array([.text(String(milliseconds / 1000)), .text(String(milliseconds % 1000 * 1000))])
    }
}

// MARK: CONFIG

extension ServerCommands {
    /// What tools such as redis-benchmark look at; none of it can be set.
    private static let configuration = [
        ("appendonly", "yes"), ("databases", "1"), ("maxmemory", "0"), ("maxmemory-policy", "noeviction"), ("save", ""),
        ("timeout", "0"),
    ]

    /// CONFIG GET pattern …
    static func config(_ arguments: [Bytes]) throws(Refusal) -> Reply {
        _ = try Subcommand.name(arguments, of: "config", arities: ["get": -3])
        let patterns = arguments.dropFirst(2).map { GlobPattern(Bytes($0.text.lowercased())) }
        var items: [Reply] = []
        for (name, value) in configuration where patterns.contains(where: { $0.matches(Bytes(name)) }) {
            items += [.text(name), .text(value)]
        }
        return .map(items)
    }
}

// MARK: COMMAND

extension ServerCommands {
    /// COMMAND and its subcommands.
    static func command(_ arguments: [Bytes]) throws(Refusal) -> Reply {
        if arguments.count == 1 { return .array(CommandTable.all.map(description)) }
        switch try Subcommand.name(arguments, of: "command", arities: commandArities) {
        case "count": return .integer(Int64(CommandTable.all.count))
        case "docs": return .map([])
        case "getkeys": return try keys(Array(arguments.dropFirst(2)))
        case "info":
            if arguments.count == 2 { return .array(CommandTable.all.map(description)) }
            return .array(
                arguments.dropFirst(2).map { name in
                    CommandTable.position(of: name).map { description(CommandTable.all[$0]) } ?? .null
                })
        case "list": return .array(try listed(arguments).map { .text($0.name.rawValue) })
        default: throw .unknownSubcommand(arguments[1], of: "command")
        }
    }

    private static let commandArities = ["count": 2, "docs": -2, "getkeys": -4, "info": -2, "list": -2]

    /// Name, arity, flags, key positions, categories; no tips, key specifications or subcommands.
    private static func description(_ command: CommandSpecification) -> Reply {
        .array([
            .text(command.name.rawValue), .integer(Int64(command.arity)), .set(command.flags.map { .simple($0) }),
            .integer(Int64(command.keys.first)), .integer(Int64(command.keys.last)), .integer(Int64(command.keys.step)),
            .set(command.categories.map { .simple($0) }), .set([]), .set([]), .set([]),
        ])
    }

    private static func keys(_ arguments: [Bytes]) throws(Refusal) -> Reply {
        guard let position = CommandTable.position(of: arguments[0]) else {
            throw Refusal("ERR Invalid command specified")
        }
        let command = CommandTable.all[position]
        guard command.keys.first > 0 else { throw Refusal("ERR The command has no key arguments") }
        guard command.admits(arguments.count) else {
            throw Refusal("ERR Invalid number of arguments specified for command")
        }
        let last = command.keys.last < 0 ? arguments.count + command.keys.last : command.keys.last
        let positions = stride(from: command.keys.first, through: last, by: command.keys.step)
        return .array(positions.map { .bulk(arguments[$0]) })
    }

    /// COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern].
    private static func listed(_ arguments: [Bytes]) throws(Refusal) -> [CommandSpecification] {
        if arguments.count == 2 { return CommandTable.all }
        guard arguments.count == 5, arguments[2].isWord("filterby") else { throw .syntax }
        let argument = arguments[4]
        switch arguments[3].shortName {
        case "module": return []
        case "aclcat":
            return CommandTable.all.filter { $0.categories.contains { argument.isWord(String($0.dropFirst())) } }
        case "pattern":
            let pattern = GlobPattern(Bytes(argument.text.lowercased()))
            return CommandTable.all.filter { pattern.matches(Bytes($0.name.rawValue)) }
        default: throw .syntax
        }
    }
}
