"""Tiny variants of common networks, in 2D and 3D, with random weights.

Each function builds one network. The structure is the real one; only widths, depths and the
number of classes are smaller.
"""

from __future__ import annotations

import warnings

with warnings.catch_warnings():  # timm, which segmentation-models-pytorch imports too
    warnings.filterwarnings(
        "ignore", message="`torch.jit.interface` is deprecated", category=DeprecationWarning
    )
    import timm

import monai.networks.nets as monai_nets
import segmentation_models_pytorch as smp
import torchvision.models as tv
import transformers
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from monai.networks.nets.senet import SEResNet50
from torch import nn
from torchvision.models import convnext, densenet, maxvit, resnet, swin_transformer, video
from torchvision.models.segmentation import deeplabv3, fcn
from torchvision.models.video import resnet as video_resnet

CLASSES = 3


# ---------------------------------------------------------------------------------- torchvision


def tv_resnet() -> nn.Module:
    return resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=CLASSES)


def tv_densenet() -> nn.Module:
    return densenet.DenseNet(8, (2, 2, 2, 2), num_init_features=16, num_classes=CLASSES)


def tv_efficientnet() -> nn.Module:
    return tv.efficientnet_b0(num_classes=CLASSES)


def tv_convnext() -> nn.Module:
    block = convnext.CNBlockConfig
    stages = [block(16, 32, 1), block(32, 64, 1), block(64, 128, 1), block(128, None, 1)]
    return tv.ConvNeXt(stages, num_classes=CLASSES)


def tv_mobilenet() -> nn.Module:
    return tv.mobilenet_v3_small(num_classes=CLASSES)


def tv_googlenet() -> nn.Module:
    return tv.GoogLeNet(num_classes=CLASSES, aux_logits=True, init_weights=False)


def tv_inception() -> nn.Module:
    return tv.Inception3(num_classes=CLASSES, aux_logits=True, init_weights=False)


def tv_swin() -> nn.Module:
    return swin_transformer.SwinTransformer(
        [4, 4], 16, [1, 1, 1, 1], [1, 2, 4, 8], [4, 4], num_classes=CLASSES
    )


def tv_vit() -> nn.Module:
    net = tv.VisionTransformer(32, 8, 3, 2, 32, 64, num_classes=CLASSES)
    nn.init.normal_(
        net.heads.head.weight
    )  # it is initialised with zeros, which would make all maps zero
    return net


def tv_maxvit() -> nn.Module:
    return maxvit.MaxVit((64, 64), 8, 4, [16, 32], [1, 1], 8, 0.0, num_classes=CLASSES)


def tv_squeezenet() -> nn.Module:
    return tv.SqueezeNet("1_1", num_classes=CLASSES)


def tv_squeezenet_many_classes() -> nn.Module:
    return tv.SqueezeNet("1_1", num_classes=600)


def tv_shufflenet() -> nn.Module:
    return tv.shufflenet_v2_x0_5(num_classes=CLASSES)


def tv_mnasnet() -> nn.Module:
    return tv.mnasnet0_5(num_classes=CLASSES)


def tv_regnet() -> nn.Module:
    return tv.regnet_y_400mf(num_classes=CLASSES)


def tv_r3d() -> nn.Module:
    return video.VideoResNet(
        video_resnet.BasicBlock,
        [video_resnet.Conv3DSimple] * 4,
        [1, 1, 1, 1],
        video_resnet.BasicStem,
        num_classes=CLASSES,
    )


def _tv_backbone(last: str) -> nn.Module:
    backbone = resnet.ResNet(
        resnet.Bottleneck, [1, 1, 1, 1], replace_stride_with_dilation=[False, True, True]
    )
    return tv._utils.IntermediateLayerGetter(backbone, {"layer3": "aux", "layer4": last})


def tv_deeplabv3() -> nn.Module:
    head = deeplabv3.DeepLabHead(2048, CLASSES, (2, 4, 6))
    return deeplabv3.DeepLabV3(_tv_backbone("out"), head, fcn.FCNHead(1024, CLASSES))


def tv_fcn() -> nn.Module:
    head = fcn.FCNHead(2048, CLASSES)
    return fcn.FCN(_tv_backbone("out"), head, fcn.FCNHead(1024, CLASSES))


def tv_lraspp() -> nn.Module:
    return tv.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=CLASSES
    )


# ---------------------------------------------------------------------------------------- MONAI


def monai_densenet(dims: int) -> nn.Module:
    return monai_nets.DenseNet(dims, 1, CLASSES, 8, 4, (2, 2, 2, 2))


def monai_seresnet(dims: int) -> nn.Module:
    return SEResNet50((1, 1, 1, 1), spatial_dims=dims, in_channels=1, num_classes=CLASSES)


def monai_resnet(dims: int) -> nn.Module:
    return monai_nets.ResNet(
        "basic", [1, 1, 1, 1], [8, 16, 32, 64], dims, 1, conv1_t_stride=2, num_classes=CLASSES
    )


def monai_efficientnet(dims: int) -> nn.Module:
    return monai_nets.EfficientNetBN("efficientnet-b0", False, False, dims, 1, CLASSES)


def monai_vit(dims: int) -> nn.Module:
    return monai_nets.ViT(
        1, [16] * dims, [4] * dims, 16, 32, 3, 2, classification=True, num_classes=CLASSES,
        spatial_dims=dims, post_activation=None,
    )  # fmt: skip


def monai_unet(dims: int) -> nn.Module:
    return monai_nets.UNet(dims, 1, CLASSES, (4, 8, 16, 32), (2, 2, 2), num_res_units=2)


def monai_attention_unet(dims: int) -> nn.Module:
    return monai_nets.AttentionUnet(dims, 1, CLASSES, (4, 8, 16, 32), (2, 2, 2))


def monai_basic_unet(dims: int) -> nn.Module:
    return monai_nets.BasicUNet(dims, 1, CLASSES, (4, 4, 8, 8, 16, 4))


def monai_basic_unet_pp(dims: int, *, deep_supervision: bool = False) -> nn.Module:
    return monai_nets.BasicUNetPlusPlus(dims, 1, CLASSES, (4, 4, 8, 8, 16, 4), deep_supervision)


def monai_dynunet(dims: int, *, deep_supervision: bool = False) -> nn.Module:
    return monai_nets.DynUNet(
        dims, 1, CLASSES, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[4, 8, 16, 32],
        deep_supervision=deep_supervision, deep_supr_num=2,
    )  # fmt: skip


def monai_segresnet(dims: int) -> nn.Module:
    return monai_nets.SegResNet(dims, 8, 1, CLASSES)


def monai_segresnet_ds(dims: int, depth: int = 1) -> nn.Module:
    return monai_nets.SegResNetDS(dims, 8, 1, CLASSES, dsdepth=depth)


def monai_segresnet_vae(dims: int) -> nn.Module:
    return monai_nets.SegResNetVAE(
        [16] * dims, vae_nz=8, spatial_dims=dims, in_channels=1, out_channels=CLASSES
    )


def monai_swin_unetr(dims: int) -> nn.Module:
    return monai_nets.SwinUNETR(
        1, CLASSES, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), feature_size=12,
        spatial_dims=dims, window_size=4,
    )  # fmt: skip


def monai_unetr(dims: int) -> nn.Module:
    return monai_nets.UNETR(1, CLASSES, [32] * dims, 4, 16, 32, 2, spatial_dims=dims)


def monai_mednext(dims: int) -> nn.Module:
    return monai_nets.MedNeXt(
        dims, 4, 1, CLASSES, bottleneck_expansion_ratio=4, blocks_down=(1, 1, 1, 1),
        blocks_bottleneck=2, blocks_up=(1, 1, 1, 1),
    )  # fmt: skip


def monai_vnet(dims: int) -> nn.Module:
    return monai_nets.VNet(dims, 1, CLASSES)


# --------------------------------------------------------------- dynamic-network-architectures


def _nnunet(dims: int) -> dict[str, object]:
    return {
        "input_channels": 1,
        "n_stages": 4,
        "features_per_stage": [4, 8, 16, 32],
        "conv_op": nn.Conv2d if dims == 2 else nn.Conv3d,
        "kernel_sizes": 3,
        "strides": [1, 2, 2, 2],
        "num_classes": CLASSES,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "n_conv_per_stage_decoder": 2,
    }


def nnunet_plain(dims: int, *, deep_supervision: bool = False) -> nn.Module:
    return PlainConvUNet(**_nnunet(dims), n_conv_per_stage=2, deep_supervision=deep_supervision)


def nnunet_residual(dims: int) -> nn.Module:
    return ResidualEncoderUNet(**_nnunet(dims), n_blocks_per_stage=1)


# ------------------------------------------------------------------ segmentation-models-pytorch


def smp_net(name: str, encoder: str = "resnet18", **options: object) -> nn.Module:
    return getattr(smp, name)(encoder, encoder_weights=None, classes=CLASSES, **options)


# ----------------------------------------------------------------------------------------- timm


def timm_vit() -> nn.Module:
    return timm.models.VisionTransformer(
        32, 8, num_classes=CLASSES, embed_dim=32, depth=3, num_heads=2, weight_init="skip"
    )


def timm_convnext() -> nn.Module:
    return timm.models.ConvNeXt(
        num_classes=CLASSES, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), conv_mlp=True
    )


def timm_swin() -> nn.Module:
    return timm.models.SwinTransformer(
        64, 4, num_classes=CLASSES, embed_dim=24, depths=(1, 1, 1), num_heads=(1, 2, 4),
        window_size=4,
    )  # fmt: skip


def timm_features() -> nn.Module:
    return timm.create_model("resnet10t", features_only=True)


# ------------------------------------------------------------------------ Hugging Face, no files


def hf_vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=8, num_labels=CLASSES,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def hf_segformer() -> nn.Module:
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16, num_labels=CLASSES,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


def hf_swin() -> nn.Module:
    config = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=16, depths=[1, 1, 1], num_heads=[1, 2, 4],
        window_size=4, num_labels=CLASSES,
    )  # fmt: skip
    return transformers.SwinForImageClassification(config)


def hf_resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 24, 32], depths=[1, 1, 1], num_labels=CLASSES
    )
    return transformers.ResNetForImageClassification(config)


def hf_convnext() -> nn.Module:
    config = transformers.ConvNextConfig(
        num_stages=3, hidden_sizes=[8, 16, 32], depths=[1, 1, 1], num_labels=CLASSES
    )
    return transformers.ConvNextForImageClassification(config)
