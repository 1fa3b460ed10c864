import Glibc
import Testing

/// The command, in processes of its own.
@Suite("raftsim") struct RaftsimTests {
    /// Runs the command that was built beside the tests; what it prints, and its exit status.
    private func raftsim(_ arguments: String) throws -> (output: String, status: Int32) {
        let path = try #require(RaftsimTests.path)
        let stream = try #require(popen("'\(path)' \(arguments) 2>&1", "r"))
        var output: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = fread(&buffer, 1, buffer.count, stream)
            guard count > 0 else { break }
            output += buffer[..<count]
        }
        let status = pclose(stream)
        return (String(decoding: output, as: UTF8.self), status >> 8 & 0xff)
    }

    private static let path: String? = {
        var buffer = [CChar](repeating: 0, count: 4096)
        guard readlink("/proc/self/exe", &buffer, buffer.count - 1) > 0 else { return nil }
        // the runner is somewhere in the toolchain or beside the products
        let candidates =
            CommandLine.arguments + [String(decoding: buffer.prefix { $0 != 0 }.map(UInt8.init), as: UTF8.self)]
        for candidate in candidates {
            guard let slash = candidate.lastIndex(of: "/") else { continue }
            let path = candidate[..<slash] + "/raftsim"
            if access(String(path), X_OK) == 0 { return String(path) }
        }
        return nil
    }()

    @Test("Two processes print the same hash for a seed, and a replayed schedule is the same run") func replay() throws
    {
        let first = try raftsim("7 --steps 3000 --nodes 3 --groups 2")
        let second = try raftsim("7 --steps 3000 --nodes 3 --groups 2")
        #expect(first.status == 0 && first.output.contains("hash ") && first.output == second.output)
        let third = try raftsim("8 --steps 3000 --nodes 3 --groups 2")
        #expect(third.status == 0 && third.output != first.output)
    }

    @Test("Cores alone are replayed bit for bit, too") func cores() throws {
        let first = try raftsim("--cores 11 --life snapshots")
        let second = try raftsim("--cores 11 --life snapshots")
        #expect(first.status == 0 && first.output.contains("hash ") && first.output == second.output)
        let many = try raftsim("--cores --seeds 1..20")
        #expect(many.status == 0 && many.output.contains("20 seeds, 0 failed") && many.output.contains("steps/s"))
        let timeline = try raftsim("--cores 11 --life reads --timeline")
        #expect(timeline.output.contains("leader in term 1"))
        let quiet = try raftsim("--cores 11 --life reads --schedule ''")
        #expect(quiet.status == 0 && quiet.output.contains(" 2 reads;"), "only those of the end")
        let part = "--cores 11 --life reads --schedule '5000:propose:0:1,5500:read:0:2' --timeline"
        let (one, again) = (try raftsim(part), try raftsim(part))
        #expect(one.status == 0 && one.output.contains("5500:read:0:2") && one.output == again.output)
    }

    @Test("Many seeds print their throughput") func many() throws {
        let result = try raftsim("--seeds 1..3 --steps 500 --faults crash,partition")
        #expect(result.status == 0 && result.output.contains("3 seeds, 0 failed"))
        #expect(result.output.contains("steps/s"))
    }

    @Test("A failing seed prints its timeline, the smallest schedule, and the command that replays it")
    func failure() throws {
        // a majority of the group's disks rots
        let rot = (2...3).map { node in "6000:bit-rot:\(node):1:10:19600" }
        let schedule = (rot + ["20:pause:1:2:5:0"]).joined(separator: ",")
        let result = try raftsim("7 --groups 1 --nodes 3 --steps 10000 --schedule '\(schedule)'")
        #expect(result.status == 1 && result.output.contains("FAILED Heals"))
        #expect(result.output.contains("leads controller in term"))
        let lines = result.output.split(separator: "\n")
        let replay = try #require(lines.last { $0.hasPrefix("replay: raftsim ") })
        #expect(!replay.contains("pause"))
        let again = try raftsim(String(replay.dropFirst("replay: raftsim ".count)))
        #expect(again.status == 1 && again.output.contains("FAILED Heals"))
    }

    @Test(
        "What cannot be understood is a usage error",
        arguments: [
            "", "x", "1 2", "--seeds 5", "--seeds 5..1", "1 --nodes 0", "1 --steps", "1 --faults quake",
            "1 --schedule 5", "--cores 1 --schedule 20:crash:1:2:300:4", "1 --schedule 20:mend:1:2",
            "--cores 1 --nodes 3",
            "--cores 1 --life easy", "1 --life reads", "--mutants", "1 --schedule-file /nowhere/at/all",
        ])
    func usage(arguments: String) throws {
        let result = try raftsim(arguments)
        #expect(result.status == 2 && result.output.hasPrefix("raftsim: "), "\(result)")
    }
}
