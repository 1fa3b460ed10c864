import Glibc
import Simulator

func put(_ text: String, on stream: Int32 = STDOUT_FILENO) {
    var text = text + "\n"
    text.withUTF8 { buffer in
        var done = 0
        while done < buffer.count {
            let count = write(stream, buffer.baseAddress.map { $0 + done }, buffer.count - done)
            guard count > 0 else { return }
            done += count
        }
    }
}

func hexadecimal(_ number: UInt64) -> String {
    let digits = String(number, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
}

func seconds() -> Double {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
}

func describe(_ plan: Plan, _ outcome: Simulation.Outcome) -> String {
    let verdict = outcome.violation.map { "FAILED \($0)" } ?? "passed"
    let faults = outcome.faults.values.reduce(0, +)
    return "seed \(plan.seed): \(verdict); \(plan.groups) groups on \(plan.nodes) nodes, \(outcome.steps) steps, "
        + "\(outcome.elections) elections, \(faults) faults, \(outcome.changes) changes of membership, \(outcome.installs) snapshots, calls: "
        + "\(outcome.answered) answered, \(outcome.refused) refused, \(outcome.lost) unknown, \(outcome.undecided) keys undecided; hash \(hexadecimal(outcome.hash))"
}

func describe(_ life: CoreLifeKind, _ seed: UInt64, _ outcome: CoreSimulation.Outcome) -> String {
    "seed \(seed): \(outcome.violation.map { "FAILED \($0)" } ?? "passed"); cores, \(life.rawValue), "
        + "\(outcome.steps) steps, \(outcome.terms) terms, \(outcome.committed) entries, \(outcome.changes) changes, "
        + "\(outcome.reads) reads; hash \(hexadecimal(outcome.hash))"
}

/// The end of a failure's timeline.
func explain(_ life: CoreLifeKind, _ seed: UInt64) {
    put("seed \(seed): timeline, its end")
    var last: [String] = []
    var simulation = CoreSimulation(seed: seed, life: life) { line in
        if last.count >= 1000 { last.removeFirst(500) }
        last.append(line)
    }
    _ = simulation.run()
    for line in last.suffix(200) { put("  " + line) }
    put("replay: raftsim --cores \(seed) --life \(life.rawValue) --timeline")
}

/// Runs a seed; how many events there were, and whether it failed. The first failure is told in full.
func run(_ seed: UInt64, _ arguments: Arguments, isFirstFailure: Bool) -> (steps: Int, failed: Bool) {
    let timeline = arguments.printsTimeline && !arguments.isMany ? { put($0) } : nil
    if arguments.isOfCores {
        let life = arguments.life(seed)
        var simulation = CoreSimulation(seed: seed, life: life, timeline: timeline)
        let outcome = simulation.run()
        if !arguments.isMany || outcome.violation != nil { put(describe(life, seed, outcome)) }
        if outcome.violation != nil, isFirstFailure, !arguments.printsTimeline { explain(life, seed) }
        return (outcome.steps, outcome.violation != nil)
    }
    let plan = arguments.plan(seed)
    let outcome = Simulation(plan, timeline: timeline).run()
    if !arguments.isMany || outcome.violation != nil { put(describe(plan, outcome)) }
    if let violation = outcome.violation, isFirstFailure, !arguments.printsTimeline { explain(plan, violation) }
    return (outcome.steps, outcome.violation != nil)
}

/// The timeline of a failure, and the smallest schedule that still fails.
func explain(_ plan: Plan, _ violation: Violation) {
    put("seed \(plan.seed): timeline")
    _ = Simulation(plan, timeline: { put("  " + $0) }).run()
    let smallest = plan.shrunk(failing: violation.checker)
    put(
        "seed \(plan.seed): \(smallest.schedule.faults.count) of \(plan.schedule.faults.count) faults are enough: "
            + (smallest.schedule.faults.isEmpty ? "none" : smallest.schedule.description))
    put("replay: raftsim \(smallest.arguments) --timeline")
}

let words = Array(CommandLine.arguments.dropFirst())
if words.contains("--help") || words.contains("-h") {
    put(Arguments.help)
    exit(0)
}
#if MUTANTS
    if let status = runMutants(words) { exit(status) }
#endif
let arguments: Arguments
do throws(UsageError) {
    arguments = try Arguments(words)
} catch {
    put("raftsim: \(error.text) (see raftsim --help)", on: STDERR_FILENO)
    exit(2)
}

let began = seconds()
var steps = 0
var failures = 0
for seed in arguments.seeds {
    let result = run(seed, arguments, isFirstFailure: failures == 0)
    steps += result.steps
    if result.failed { failures += 1 }
}
if arguments.isMany {
    let elapsed = seconds() - began
    put(
        "raftsim: \(arguments.seeds.count) seeds, \(failures) failed; \(steps) steps in \(Int(elapsed * 1000)) ms, "
            + "\(Int(Double(steps) / max(elapsed, 0.001))) steps/s")
}
exit(failures == 0 ? 0 : 1)
