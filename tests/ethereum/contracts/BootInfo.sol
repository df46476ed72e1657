// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// What a KMS knows of whoever asks for keys.
struct AppBootInfo {
    address appId;
    bytes32 composeHash;
    address instanceId;
    bytes32 deviceId;
    bytes32 mrAggregated;
    bytes32 mrSystem;
    bytes32 osImageHash;
    string tcbStatus;
    string[] advisoryIds;
}

/// What every app's contract answers.
interface IAppAuth {
    function isAppAllowed(AppBootInfo calldata bootInfo) external view returns (bool isAllowed, string memory reason);
}

function equal(string memory one, string memory other) pure returns (bool) {
    return keccak256(bytes(one)) == keccak256(bytes(other));
}
