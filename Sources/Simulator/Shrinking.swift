extension Plan {
    /// The plan with the smallest fault schedule found that still fails with a violation of the same checker, by delta
    /// debugging (Zeller and Hildebrandt, 2002): ever smaller parts of the schedule are left out. `runs` bounds how
    /// often `outcome` is asked.
    public func shrunk(
        failing checker: String, runs: Int = 200, outcome: (Plan) -> Simulation.Outcome = { Simulation($0).run() }
    ) -> Plan {
        var left = runs
        var smallest = self
        func fails(_ faults: [Fault]) -> Bool {
            guard left > 0 else { return false }
            left -= 1
            var plan = smallest
            plan.schedule = FaultSchedule(faults)
            return outcome(plan).violation?.checker == checker
        }
        if fails([]) {
            smallest.schedule = FaultSchedule([])
            return smallest
        }
        var parts = 2
        while smallest.schedule.faults.count > 1, left > 0 {
            let faults = smallest.schedule.faults
            parts = min(parts, faults.count)
            let cuts = (0...parts).map { $0 * faults.count / parts }
            let complement = (0..<parts).lazy
                .map { part in Array(faults[..<cuts[part]] + faults[cuts[part + 1]...]) }
                .first(where: fails)
            if let complement {
                smallest.schedule = FaultSchedule(complement)
                parts = max(parts - 1, 2)
            } else if parts == faults.count {
                break
            } else {
                parts *= 2
            }
        }
        return smallest
    }
}
