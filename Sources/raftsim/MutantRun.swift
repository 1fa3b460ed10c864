#if MUTANTS
    import Glibc
    import RaftCore
    import Simulator

    /// What a command that replays something begins with.
    var replayCommand: String {
        let bug = String(decoding: PlantedBug.active, as: UTF8.self)
        return bug.isEmpty ? "raftsim" : "raftsim --mutant \(bug)"
    }

    /// Serves `tools/mutants`: `--mutants` lists the table, `--mutant NAME` lets the simulation look for one bug. The
    /// exit status, or nil if neither was asked for. `--mutant NAME` before other words plants the bug and runs those.
    ///
    /// Each seed is announced before it runs, so that whoever finds this process trapped knows where.
    func runMutants(_ words: inout [String]) -> Int32? {
        if words == ["--mutants"] {
            for mutant in Mutant.table { put("\(mutant.name)\t\(mutant.traps ? "traps" : "-")\t\(mutant.flaw)") }
            return 0
        }
        guard words.count >= 2, words[0] == "--mutant" else { return nil }
        guard let mutant = Mutant.table.first(where: { $0.name == words[1] }) else {
            put("raftsim: there is no mutant \(words[1])", on: STDERR_FILENO)
            return 2
        }
        guard words.count == 2 else {
            PlantedBug.plant(mutant.name)
            words.removeFirst(2)
            return nil
        }
        guard let (violation, seeds) = mutant.hunt(announce: { put("seed \($0)") }) else {
            put("mutant \(mutant.name): survived")
            return 1
        }
        put("\(violation)")
        put("mutant \(mutant.name): caught by \(violation.checker) after \(seeds) seed\(seeds == 1 ? "" : "s")")
        return 0
    }
#else
    /// What a command that replays something begins with.
    let replayCommand = "raftsim"
#endif
