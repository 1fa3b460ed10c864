import Glibc

/// The command line's entry: finds the command, runs it, turns its failure into one line and an exit status.
@main
struct Raftctl {
    static let version = "0.1.0"

    static func main() async {
        // a reader that has seen enough (`raftctl kv scan | head`) is told by write(2), not by a signal
        signal(SIGPIPE, SIG_IGN)
        do throws(Failure) {
            try await run(try arguments())
        } catch {
            if !error.message.isEmpty { Output.complain("raftctl: \(error.message)") }
            exit(error.status.rawValue)
        }
    }

    private static func run(_ words: [String]) async throws(Failure) {
        switch try CommandLineParser(environment: { name in getenv(name).map { String(cString: $0) } }).parse(words) {
        case .help(let text): try Output.print(text)
        case .version: try Output.print("raftctl \(version)")
        case .run(let command, let invocation): try await command.run(invocation)
        }
    }

    /// The words after the program's name. Swift would repair what is not UTF-8, so a key would silently be another
    /// one; it is refused instead.
    private static func arguments() throws(Failure) -> [String] {
        var words: [String] = []
        for position in 1..<max(1, Int(CommandLine.argc)) {
            guard let word = CommandLine.unsafeArgv[position] else { break }
            guard let text = String(validatingCString: word) else {
                throw .usage("argument \(position) is not UTF-8; write its bytes as \\xHH and add --escaped")
            }
            words.append(text)
        }
        return words
    }
}
