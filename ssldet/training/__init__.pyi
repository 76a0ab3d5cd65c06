from .assembly import assemble_training as assemble_training
from .guidance import FrameLabelOptions as FrameLabelOptions
from .guidance import FrameLabels as FrameLabels
from .guidance import GuidanceOptions as GuidanceOptions
from .guidance import accepted_frames as accepted_frames
from .guidance import agreeing_boxes as agreeing_boxes
from .guidance import guided_boxes as guided_boxes
from .loop import Training as Training
from .loop import build_optimizer as build_optimizer
from .objectives import TemporalOptions as TemporalOptions
from .objectives import forward_groups as forward_groups
from .objectives import forward_pair as forward_pair
from .objectives import frame_probabilities as frame_probabilities
from .objectives import supervised_group_terms as supervised_group_terms
from .objectives import supervised_terms as supervised_terms
from .objectives import temporal_term as temporal_term
from .objectives import unlabelled_group_terms as unlabelled_group_terms
from .objectives import unlabelled_pair_terms as unlabelled_pair_terms
from .objectives import unlabelled_terms as unlabelled_terms
from .profiling import StepProfile as StepProfile
from .profiling import profile_steps as profile_steps
from .pseudo_labels import CandidateOptions as CandidateOptions
from .pseudo_labels import box_targets as box_targets
from .pseudo_labels import candidate_boxes as candidate_boxes
from .pseudo_labels import carry_to_strong as carry_to_strong
from .pseudo_labels import chosen_boxes as chosen_boxes
from .pseudo_labels import confident_boxes as confident_boxes
from .teachers import AverageOptions as AverageOptions
from .teachers import StrongView as StrongView
from .teachers import Teacher as Teacher
from .teachers import TeacherOptions as TeacherOptions
from .teachers import TeacherStudent as TeacherStudent

__all__ = [
    "AverageOptions",
    "CandidateOptions",
    "FrameLabelOptions",
    "FrameLabels",
    "GuidanceOptions",
    "StepProfile",
    "StrongView",
    "Teacher",
    "TeacherOptions",
    "TeacherStudent",
    "TemporalOptions",
    "Training",
    "accepted_frames",
    "agreeing_boxes",
    "assemble_training",
    "box_targets",
    "build_optimizer",
    "candidate_boxes",
    "carry_to_strong",
    "chosen_boxes",
    "confident_boxes",
    "forward_groups",
    "forward_pair",
    "frame_probabilities",
    "guided_boxes",
    "profile_steps",
    "supervised_group_terms",
    "supervised_terms",
    "temporal_term",
    "unlabelled_group_terms",
    "unlabelled_pair_terms",
    "unlabelled_terms",
]
