import RaftCore
import ShardMap

// The cluster's level goes up by an operator's order, once every node has announced that its program knows it.

extension ControllerState {
    /// Raises the level; a repetition is answered as the first time.
    mutating func upgrade(to level: UInt32, _ version: UInt64?) throws(ControllerRefusal) -> ControllerReply {
        let map = try initializedMap()
        try expect(version, map)
        guard level != map.level else { return ControllerReply() }
        guard level > map.level else {
            throw ControllerRefusal(
                .refused,
                "the cluster is at level \(map.level), and a level is never lowered: older programs could not read what "
                    + "is in the logs since")
        }
        if let refusal = map.refusal(ofLevel: level) { throw ControllerRefusal(.programTooOld, refusal) }
        replaceLevel(by: level)
        return ControllerReply()
    }

    /// A node that could not read what its groups' logs hold, or will hold, is not let in.
    func check(level: UInt32, of address: NodeAddress, _ map: ClusterMap) throws(ControllerRefusal) {
        guard let refusal = map.refusal(ofProgramAt: address, knowing: level) else { return }
        throw ControllerRefusal(.programTooOld, refusal)
    }
}
