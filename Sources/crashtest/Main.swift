import ClusterProcesses
import Glibc

/// The command line's entry. Exit status 0: every acknowledged write was found; 1: not; 2: usage.
@main
struct Main {
    private static let help = """
        usage: crashtest [--rounds N] [--seed S] [--writers N] [--no-damage]

        Three raftd processes under load; in each round one, two or all of them are killed with SIGKILL and files of one
        node that is down are damaged, or what one sends or receives is held back for a while, and then every
        acknowledged write is looked for.

          --rounds N     how often (10)
          --seed S       of what is killed, when, and what is damaged (1); load and machine remain chance
          --writers N    clients that write (12)
          --no-damage    leave the files alone
        """

    static func main() async {
        var options = CrashTest.Options()
        var words = CommandLine.arguments.dropFirst()
        func number(_ range: ClosedRange<Int>, _ name: String) -> Int {
            guard let word = words.popFirst(), let number = Int(word), range.contains(number) else {
                fail("\(name) is \(range.lowerBound) to \(range.upperBound)", status: 2)
            }
            return number
        }
        while let word = words.popFirst() {
            switch word {
            case "--rounds": options.rounds = number(1...100_000, word)
            case "--seed": options.seed = UInt64(number(0...Int.max, word))
            case "--writers": options.writers = number(1...1000, word)
            case "--no-damage": options.isDamaging = false
            case "--help", "-h":
                print(help)
                exit(0)
            default: fail("there is no option '\(word)'\n\(help)", status: 2)
            }
        }
        options.raftd = Files.besideThisProgram("raftd")
        guard access(options.raftd, X_OK) == 0 else { fail("\(options.raftd) is not built", status: 2) }
        var test = CrashTest(options)
        do {
            try await test.run()
        } catch {
            fail("round failed: \(error)", status: 1)
        }
        say("\(options.rounds) rounds: \(test.acknowledged) writes acknowledged, \(test.lost) lost")
        exit(test.lost == 0 ? 0 : 1)
    }

    private static func fail(_ text: String, status: Int32) -> Never {
        say("crashtest: \(text)", on: STDERR_FILENO)
        exit(status)
    }
}
