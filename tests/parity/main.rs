//! Whole nets against stored answers of other programs; the scripts that made them stand beside them (generate.py, pretrained.py).

mod pretrained;
mod session;
mod stored;
mod torchvision;
