import RaftCore

/// Reads the command line. Options may stand anywhere; `--` ends them. Decides only, prints nothing.
struct CommandLineParser {
    /// What is to be done.
    enum Outcome {
        case help(String)
        case version
        case run(Command, Invocation)
    }

    /// Reads a variable of the environment.
    let environment: (String) -> String?
    var commands = Command.all

    static let options = [
        CommandOption("cluster", "HOST:PORT,…", "nodes to ask (RAFTCTL_CLUSTER, else 127.0.0.1:8101)"),
        CommandOption("o", "table|json", "how to print: for people (default), or one JSON object"),
        CommandOption("timeout", "SECONDS", "how long one operation may take (default 10)"),
        CommandOption("help", nil, "say how a command is used"),
        CommandOption("version", nil, "print the version"),
    ]

    func parse(_ words: [String]) throws(Failure) -> Outcome {
        if let first = words.first, first == "help" {
            return .help(try Help(commands).text(for: Array(words.dropFirst())))
        }
        let (command, path, positionals, values) = try split(words)
        if values["version"] != nil { return .version }
        if values["help"] != nil || (command == nil && path.isEmpty) {
            guard values["help"] != nil else { throw .usage("no command given") }
            return .help(try Help(commands).text(for: path))
        }
        guard let command else { throw .usage("'\(path.joined(separator: " "))' is not a whole command") }
        guard command.positionals.contains(positionals.count) else {
            throw .usage("usage: raftctl \(command.synopsis)")
        }
        return .run(command, try invocation(positionals, values))
    }

    /// Tells words of the command, its arguments, and options apart.
    private func split(
        _ words: [String]
    ) throws(Failure) -> (command: Command?, path: [String], positionals: [String], values: [String: String]) {
        var command: Command?
        var path: [String] = []
        var positionals: [String] = []
        var values: [String: String] = [:]
        var rest = words[...]
        var optionsAreOver = false
        while let word = rest.popFirst() {
            if !optionsAreOver, word == "--" {
                optionsAreOver = true
            } else if !optionsAreOver, word.hasPrefix("-"), word != "-" {
                try take(option: word, from: &rest, of: command, into: &values)
            } else if command != nil {
                positionals.append(word)
            } else {
                path.append(word)
                command = commands.first { $0.path == path }
                guard command != nil || commands.contains(where: { $0.path.starts(with: path) }) else {
                    throw .usage("there is no command '\(path.joined(separator: " "))'")
                }
            }
        }
        return (command, path, positionals, values)
    }

    private func take(
        option word: String, from rest: inout ArraySlice<String>, of command: Command?,
        into values: inout [String: String]
    ) throws(Failure) {
        let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        let spelling = parts[0] == "-h" ? "--help" : String(parts[0])
        let known = CommandLineParser.options + (command?.options ?? [])
        guard let option = known.first(where: { $0.spelling == spelling }) else {
            let owner = command.map { "raftctl \($0.name)" } ?? "raftctl"
            throw .usage("\(owner) has no option \(spelling); put -- before an argument that begins with -")
        }
        if option.argument == nil {
            guard parts.count == 1 else { throw .usage("\(spelling) takes no value") }
            values[option.name] = ""
        } else if parts.count == 2 {
            values[option.name] = String(parts[1])
        } else if let value = rest.popFirst() {
            values[option.name] = value
        } else {
            throw .usage("\(spelling) needs a value: \(option.argument ?? "")")
        }
    }

    private func invocation(_ positionals: [String], _ values: [String: String]) throws(Failure) -> Invocation {
        let cluster = values["cluster"] ?? environment("RAFTCTL_CLUSTER") ?? "127.0.0.1:8101"
        var seeds: [NodeAddress] = []
        for text in cluster.split(separator: ",", omittingEmptySubsequences: false) {
            let numeric = text.hasPrefix("localhost:") ? "127.0.0.1" + text.dropFirst("localhost".count) : String(text)
            guard let address = NodeAddress(numeric) else {
                throw .usage("'\(text)' is not an address of the form a.b.c.d:port")
            }
            seeds.append(address)
        }
        let format = values["o"] ?? "table"
        guard let output = OutputFormat(rawValue: format) else {
            throw .usage("-o takes table or json, not '\(format)'")
        }
        var invocation = Invocation(
            seeds: seeds, format: output, timeout: .milliseconds(0), positionals: positionals, values: values)
        invocation.timeout = .milliseconds(1000 * (try invocation.integer("timeout", in: 1...86_400) ?? 10))
        return invocation
    }
}
