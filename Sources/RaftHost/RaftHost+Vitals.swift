import RaftCore
import RaftStorage

/// Whether this node still gets on: a marker through each worker that leaders depend on.
struct VitalsCheck {
    var startedAt: Instant
    /// Workers that have not been through their marker.
    var waiting = 2
}

extension RaftHost {
    /// Sends a marker through the apply worker, and one with a sync of its own through the log worker, behind all that
    /// waits there. Whoever hangs there keeps the check from ending, and so this node from asking for support.
    func checkVitals() {
        // a closed log has no pulse any more, and a node that stops needs no support
        guard !isOver else { return }
        vitalsCheck = VitalsCheck(startedAt: now)
        workers.apply.submit {
        } completion: { [self] in
            endMarker()
        }
        let log = self.log
        let failure = Box<StorageError?>(nil)
        workers.log.submit {
            do throws(StorageError) { try log.pulse() } catch { failure.value = error }
        } completion: { [self] in
            if let error = failure.value, !isOver {
                return fail("the log cannot be written: \(error.description)")
            }
            endMarker()
        }
    }

    /// How long what waits at the workers has kept the present check from ending.
    public var stall: Interval { vitalsCheck.map { lane.clock.now - $0.startedAt } ?? .milliseconds(0) }

    /// Why proposals are refused, if they are.
    public var writeRefusal: String? {
        if hasLittleRoom { return "less is free on its disk than writes need" }
        if isLogAtBound { return "its log is as large as it may be, and is being compacted" }
        if isLogFull { return "there is no room for its log" }
        return isLogTight ? "its log is nearly as large as it may be, and is being compacted" : nil
    }

    /// Nodes with replicas of groups of this one that did not answer the last message sent to them, ascending.
    public var unheardNodes: [NodeAddress] { links.map(\.address).filter { !liveness.isReachable($0) }.sorted() }

    /// Whether something that speaks braft's services only is in touch at `node`: the connection on which it has shown that
    /// stands, and is broken when it owes answers for too long.
    public func hearsForeigner(at node: NodeAddress) -> Bool { linkByNode[node]?.kind == .foreign }

    private func endMarker() {
        vitalsCheck?.waiting -= 1
        lane.requestTurn()
    }

    /// Called at the end of a turn, so that the lane has finished one as well.
    func finishVitalsCheck() {
        guard let check = vitalsCheck, check.waiting == 0 else { return }
        vitalsCheck = nil
        livenessInbox.append(.vitalsConfirmed(startedAt: check.startedAt))
    }
}
