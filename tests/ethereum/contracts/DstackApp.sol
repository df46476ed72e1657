// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {AppBootInfo, IAppAuth, equal} from "BootInfo.sol";

/// The rules and reasons of the usual contract of an app. Anyone may change them: it is for tests.
contract DstackApp is IAppAuth {
    bool public allowAnyDevice;
    bool public requireTcbUpToDate;
    mapping(bytes32 => bool) public allowedComposeHashes;
    mapping(bytes32 => bool) public allowedDeviceIds;

    function addComposeHash(bytes32 hash) external {
        allowedComposeHashes[hash] = true;
    }

    function removeComposeHash(bytes32 hash) external {
        allowedComposeHashes[hash] = false;
    }

    function addDevice(bytes32 device) external {
        allowedDeviceIds[device] = true;
    }

    function setAllowAnyDevice(bool value) external {
        allowAnyDevice = value;
    }

    function setRequireTcbUpToDate(bool value) external {
        requireTcbUpToDate = value;
    }

    function isAppAllowed(AppBootInfo calldata info) external view returns (bool isAllowed, string memory reason) {
        if (requireTcbUpToDate && !equal(info.tcbStatus, "UpToDate")) return (false, "TCB status is not up to date");
        if (!allowedComposeHashes[info.composeHash]) return (false, "Compose hash not allowed");
        if (!allowAnyDevice && !allowedDeviceIds[info.deviceId]) return (false, "Device not allowed");
        return (true, "");
    }
}
