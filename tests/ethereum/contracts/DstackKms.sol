// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {AppBootInfo, IAppAuth, equal} from "BootInfo.sol";

/// The rules and reasons of the contract that decides for a KMS. Anyone may change them: it is for tests.
contract DstackKms {
    string public gatewayAppId;
    address public appImplementation;
    mapping(address => bool) public registeredApps;
    mapping(bytes32 => bool) public kmsAllowedAggregatedMrs;
    mapping(bytes32 => bool) public kmsAllowedDeviceIds;
    mapping(bytes32 => bool) public allowedOsImages;

    function setGatewayAppId(string calldata value) external {
        gatewayAppId = value;
    }

    function setAppImplementation(address value) external {
        appImplementation = value;
    }

    function registerApp(address app) external {
        registeredApps[app] = true;
    }

    function addKmsAggregatedMr(bytes32 mr) external {
        kmsAllowedAggregatedMrs[mr] = true;
    }

    function addKmsDevice(bytes32 device) external {
        kmsAllowedDeviceIds[device] = true;
    }

    function addOsImageHash(bytes32 image) external {
        allowedOsImages[image] = true;
    }

    function removeOsImageHash(bytes32 image) external {
        allowedOsImages[image] = false;
    }

    function isKmsAllowed(AppBootInfo calldata info) external view returns (bool isAllowed, string memory reason) {
        if (!equal(info.tcbStatus, "UpToDate")) return (false, "TCB status is not up to date");
        if (!allowedOsImages[info.osImageHash]) return (false, "OS image is not allowed");
        if (!kmsAllowedAggregatedMrs[info.mrAggregated]) return (false, "Aggregated MR not allowed");
        if (!kmsAllowedDeviceIds[info.deviceId]) return (false, "KMS is not allowed to boot on this device");
        return (true, "");
    }

    function isAppAllowed(AppBootInfo calldata info) external view returns (bool isAllowed, string memory reason) {
        if (!registeredApps[info.appId]) return (false, "App not registered");
        if (!allowedOsImages[info.osImageHash]) return (false, "OS image is not allowed");
        if (info.appId.code.length == 0) return (false, "App not deployed or invalid address");
        return IAppAuth(info.appId).isAppAllowed(info);
    }
}
