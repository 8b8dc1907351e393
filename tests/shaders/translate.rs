//! WGSL as wgpu hands it to the compilers of other systems: naga's translations with the options of wgpu-hal 30 (dx12/device.rs
//! `create_pipeline_layout` and `load_shader`, metal/device.rs `load_shader`, vulkan/adapter.rs `naga_options`).

use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ResourceBinding, ShaderStage, StorageAccess};

/// A valid shader.
pub struct Parsed {
    pub module: Module,
    pub info: ModuleInfo,
}

/// Parses and validates with what every WebGPU adapter grants, and subgroup operations where the source uses them.
pub fn parse(id: &str, source: &str) -> Parsed {
    let module =
        naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{id}: {}\n{source}", e.emit_to_string(source)));
    // WebGPU has unpack2x16float on every adapter, without the type f16.
    let base = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let capabilities = if source.contains("subgroup") { base | Capabilities::SUBGROUP } else { base };
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::all())
        .validate(&module)
        .unwrap_or_else(|e| panic!("{id}: {}\n{source}", e.emit_to_string(source)));
    assert_eq!(module.entry_points.len(), 1, "{id}: entry points");
    Parsed { module, info }
}

/// A variable that `main` binds.
struct Bound {
    place: ResourceBinding,
    uniform: bool,
    writable: bool,
}

fn bound(Parsed { module, info }: &Parsed) -> Vec<Bound> {
    let used = info.get_entry_point(0);
    let mut found: Vec<_> = module
        .global_variables
        .iter()
        .filter(|(handle, _)| !used[*handle].is_empty())
        .filter_map(|(_, v)| {
            let writable = matches!(v.space, AddressSpace::Storage { access } if access.contains(StorageAccess::STORE));
            Some(Bound { place: v.binding?, uniform: v.space == AddressSpace::Uniform, writable })
        })
        .collect();
    found.sort_by_key(|b| (b.place.group, b.place.binding));
    found
}

pub fn to_hlsl(parsed: &Parsed, shader_model: hlsl::ShaderModel, checked: bool) -> Result<String, hlsl::Error> {
    let [mut cbv, mut srv, mut uav] = [hlsl::BindTarget::default(); 3];
    let mut binding_map = hlsl::BindingMap::default();
    for b in bound(parsed) {
        let target = match (b.uniform, b.writable) {
            (true, _) => &mut cbv,
            (false, false) => &mut srv,
            (false, true) => &mut uav,
        };
        binding_map.insert(b.place, *target);
        target.register += 1;
    }
    let options = hlsl::Options {
        shader_model,
        binding_map,
        fake_missing_bindings: false,
        special_constants_binding: Some(cbv),
        zero_initialize_workgroup_memory: checked,
        restrict_indexing: checked,
        force_loop_bounding: checked,
        ..Default::default()
    };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, "main".into())) };
    let mut text = String::new();
    let written = hlsl::Writer::new(&mut text, &options, &pipeline).write(&parsed.module, &parsed.info, None)?;
    for name in written.entry_point_names {
        assert_eq!(name.expect("every binding has a register"), "main");
    }
    Ok(text)
}

pub fn to_msl(parsed: &Parsed, lang_version: (u8, u8), checked: bool) -> Result<String, msl::Error> {
    let mut resources = msl::BindingMap::default();
    let mut slots = 0..;
    for b in bound(parsed) {
        let target = msl::BindTarget { buffer: slots.next(), mutable: b.writable, ..Default::default() };
        resources.insert(b.place, target);
    }
    let resources = msl::EntryPointResources { resources, immediates_buffer: None, sizes_buffer: slots.next() };
    let policy = if checked { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
    let options = msl::Options {
        lang_version,
        fake_missing_bindings: false,
        per_entry_point_map: msl::EntryPointResourceMap::from([("main".to_owned(), resources)]),
        bounds_check_policies: BoundsCheckPolicies {
            index: policy,
            buffer: policy,
            image_load: policy,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: checked,
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        ..Default::default()
    };
    let pipeline =
        msl::PipelineOptions { entry_point: Some((ShaderStage::Compute, "main".into())), ..Default::default() };
    let (text, written) = msl::write_string(&parsed.module, &parsed.info, &options, &pipeline)?;
    for name in written.entry_point_names {
        name.expect("every binding has a slot");
    }
    Ok(text)
}

/// Devices from Vulkan 1.2 on (SPIR-V 1.5) are taken to have robust buffer access and 8-bit integers, older ones not.
pub fn to_spirv(parsed: &Parsed, lang_version: (u8, u8), checked: bool) -> Result<Vec<u32>, spv::Error> {
    let robust = lang_version >= (1, 5);
    let index = if checked { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
    let buffer = if robust { BoundsCheckPolicy::Unchecked } else { index };
    let mut capabilities = vec![
        spv::Capability::Shader,
        spv::Capability::Matrix,
        spv::Capability::Sampled1D,
        spv::Capability::Image1D,
        spv::Capability::ImageQuery,
        spv::Capability::DerivativeControl,
        spv::Capability::StorageImageExtendedFormats,
    ];
    if lang_version >= (1, 3) {
        capabilities.extend([
            spv::Capability::GroupNonUniform,
            spv::Capability::GroupNonUniformVote,
            spv::Capability::GroupNonUniformArithmetic,
            spv::Capability::GroupNonUniformBallot,
            spv::Capability::GroupNonUniformShuffle,
            spv::Capability::GroupNonUniformShuffleRelative,
            spv::Capability::GroupNonUniformQuad,
        ]);
    }
    if robust {
        capabilities.push(spv::Capability::Int8);
    }
    let place = |b: Bound| {
        let info =
            spv::BindingInfo { descriptor_set: b.place.group, binding: b.place.binding, binding_array_size: None };
        (b.place, info)
    };
    let options = spv::Options {
        lang_version,
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        fake_missing_bindings: false,
        binding_map: bound(parsed).into_iter().map(place).collect(),
        capabilities: Some(capabilities.into_iter().collect()),
        bounds_check_policies: BoundsCheckPolicies {
            index,
            buffer,
            image_load: buffer,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: match (checked, robust) {
            (false, _) => spv::ZeroInitializeWorkgroupMemoryMode::None,
            (true, true) => spv::ZeroInitializeWorkgroupMemoryMode::Native,
            (true, false) => spv::ZeroInitializeWorkgroupMemoryMode::Polyfill,
        },
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { entry_point: "main".into(), shader_stage: ShaderStage::Compute };
    spv::write_vec(&parsed.module, &parsed.info, &options, Some(&pipeline))
}
