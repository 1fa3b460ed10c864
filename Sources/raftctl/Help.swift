/// What `raftctl help` says.
struct Help {
    private let commands: [Command]

    init(_ commands: [Command]) { self.commands = commands }

    /// About one command, a family of them (`kv`), or everything.
    func text(for path: [String]) throws(Failure) -> String {
        if path.isEmpty { return overview }
        if let command = commands.first(where: { $0.path == path }) { return text(about: command) }
        let family = commands.filter { $0.path.starts(with: path) }
        guard !family.isEmpty else { throw .usage("there is no command '\(path.joined(separator: " "))'") }
        return Help.lines(family.map { ("raftctl \($0.synopsis)", $0.summary) })
    }

    private var overview: String {
        """
        raftctl [--cluster HOST:PORT,…] [-o table|json] COMMAND

        Talks to a Flotilla cluster.

        Commands:
        \(Help.lines(commands.map { ($0.synopsis, $0.summary) }))
          help [COMMAND]
              this text, or more about a command

        Options:
        \(Help.lines(CommandLineParser.options.map(Help.entry)))

        Exit status: 0 done; 1 refused or failed, with one line that says what and what to do; 2 the command
        line makes no sense; 3 none of the nodes answers.

        Keys and values in JSON: text as it is. Where bytes are not UTF-8, the text has the escapes of
        `raftctl help kv import`, and beside it "…_base64" has the exact bytes.
        """
    }

    private func text(about command: Command) -> String {
        let words = ["raftctl", command.name, command.options.isEmpty ? "" : "[OPTIONS]", command.arguments]
        var text = words.filter { !$0.isEmpty }.joined(separator: " ") + "\n\n"
        text += command.summary
        if !command.details.isEmpty { text += "\n\n" + command.details }
        if !command.options.isEmpty { text += "\n\nOptions:\n" + Help.lines(command.options.map(Help.entry)) }
        return text
    }

    private static func entry(_ option: CommandOption) -> (String, String) {
        (option.spelling + (option.argument.map { " \($0)" } ?? ""), option.help)
    }

    private static func lines(_ entries: [(String, String)]) -> String {
        let width = 26
        return entries.map { left, right in
            let fits = left.count < width
            let gap = fits ? "" : "\n" + String(repeating: " ", count: 2)
            return "  \(left)\(gap)\(String(repeating: " ", count: fits ? width - left.count : width))\(right)"
        }.joined(separator: "\n")
    }
}
