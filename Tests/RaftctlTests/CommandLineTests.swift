import RaftCore
import ShardMap
import Testing

@testable import raftctl

@Suite("Command line") struct CommandLineTests {
    private func parse(_ line: String, environment: [String: String] = [:]) throws(Failure) -> CommandLineParser.Outcome
    {
        try CommandLineParser(environment: { environment[$0] }).parse(line.split(separator: " ").map(String.init))
    }

    private func invocation(_ line: String, environment: [String: String] = [:]) throws -> (Command, Invocation) {
        guard case .run(let command, let invocation) = try parse(line, environment: environment) else {
            throw Failure.failed("nothing to run")
        }
        return (command, invocation)
    }

    @Test("options may stand anywhere, with = or without")
    func options() throws {
        let (command, call) = try invocation("-o json kv --cluster=127.0.0.1:1,10.0.0.2:2 scan --limit 5 --timeout=3")
        #expect(command.name == "kv scan")
        #expect(call.format == .json && call.timeout == .milliseconds(3000))
        #expect(call.seeds.map(\.description) == ["127.0.0.1:1", "10.0.0.2:2"])
        #expect(try call.integer("limit", in: 0...9) == 5)
    }

    @Test("the cluster: option, environment, default")
    func cluster() throws {
        let environment = ["RAFTCTL_CLUSTER": "localhost:9"]
        #expect(try invocation("status").1.seeds.map(\.description) == ["127.0.0.1:8101"])
        #expect(try invocation("status", environment: environment).1.seeds.map(\.description) == ["127.0.0.1:9"])
        let both = try invocation("--cluster 127.0.0.1:8 status", environment: environment).1
        #expect(both.seeds.map(\.description) == ["127.0.0.1:8"])
    }

    @Test("-- ends options, - is an argument")
    func dashes() throws {
        #expect(try invocation("kv put -- -k --help").1.positionals == ["-k", "--help"])
        #expect(try invocation("kv import -").1.positionals == ["-"])
    }

    @Test(
        "what makes no sense is refused as usage",
        arguments: [
            "", "nonsense", "kv", "kv nonsense", "kv get", "kv get a b", "kv get --limit 1 a", "status --wait",
            "status --wait=x=y z", "-o xml status", "--cluster nowhere status", "kv get --raw=1 a",
            "--timeout 0 status",
            "help nonsense",
        ])
    func usage(line: String) {
        #expect { try parse(line) } throws: { ($0 as? Failure)?.status == .usage }
    }

    @Test("help comes for everything, families and each command")
    func help() throws {
        for line in ["help", "--help", "help kv", "kv --help"] + Command.all.map({ "help \($0.name)" })
            + Command.all.map({ "\($0.name) --help" })
        {
            guard case .help(let text) = try parse(line) else {
                #expect(Bool(false), "no help for \(line)")
                continue
            }
            #expect(text.contains("raftctl") && text.split(separator: "\n").allSatisfy { $0.count <= 120 })
        }
        guard case .version = try parse("--version") else { return #expect(Bool(false), "no version") }
    }

    @Test("usage lines and help end in no blank", arguments: Command.all.map(\.name))
    func blanks(command: String) throws {
        let tooMany = try #require(throws: Failure.self) { try parse("\(command) a b c d e") }
        #expect(tooMany.message.contains("usage: raftctl \(command)") && !tooMany.message.contains("  "))
        for line in ["help", "help \(command)", "help \(command.prefix { $0 != " " })"] {
            guard case .help(let text) = try parse(line) else { throw Failure.failed("no help for \(line)") }
            #expect(!text.split(separator: "\n").contains { $0.hasSuffix(" ") }, "\(text)")
        }
    }

    @Test("init: boundaries are N-1, ascending, escaped; or even")
    func boundaries() throws {
        func plan(_ line: String) throws -> InitPlan { try InitPlan(try invocation("init --replicas 3 \(line)").1) }
        #expect(try plan("--groups 3 --boundaries b,\\x63").boundaries == [Bytes("b"), Bytes("c")])
        #expect(try plan("--groups 2 --boundaries a\\x2cb").boundaries == [Bytes("a,b")])
        #expect(try plan("--groups 1").boundaries.isEmpty)
        #expect(try plan("--groups 8").boundaries == BootstrapRecord.evenBoundaries(groups: 8))
        for refused in [
            "", "--groups 0", "--groups x", "--groups 3 --boundaries b", "--groups 3 --boundaries c,b",
            "--groups 3 --boundaries b,b", "--groups 3 --boundaries b,", "--groups 2 --boundaries \\q",
            "--groups 2 --boundaries=",
        ] {
            #expect(throws: Failure.self, "\(refused)") { try plan(refused) }
        }
    }

    @Test(
        "the end of a prefix is the first key behind it",
        arguments: [
            ([0x61], [0x62]), ([0x61, 0xff], [0x62]), ([0xff], []), ([], []),
        ] as [([UInt8], [UInt8])])
    func prefix(prefix: [UInt8], end: [UInt8]) { #expect(Bytes(prefix).endOfPrefix == Bytes(end)) }
}
